# RabbitMQ from Debian, for the demo and the end-to-end tests. `cluster/kube image build rabbitmq`
# Writes to /var/lib/rabbitmq only. User and password: RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS (`guest` may only
# connect from inside the pod). Metrics for Prometheus on port 15692.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends rabbitmq-server \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /var/lib/rabbitmq \
 && install --directory --owner 65532 --group 65532 /var/lib/rabbitmq \
 && echo '[rabbitmq_prometheus].' > /etc/rabbitmq/enabled_plugins
# Debian's wrappers in /usr/sbin insist on root or the user `rabbitmq`; the scripts behind them do not.
ENV PATH=/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/var/lib/rabbitmq \
    RABBITMQ_LOGS=- \
    RABBITMQ_LOG_BASE=/var/lib/rabbitmq \
    RABBITMQ_NODENAME=rabbit@localhost
USER 65532:65532
EXPOSE 5672 15692
CMD ["rabbitmq-server"]
