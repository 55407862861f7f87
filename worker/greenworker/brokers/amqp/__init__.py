"""RabbitMQ: the transport, prefetch by credits, and what is given back without a delivery counted."""
