"""The queue-depth exporter: ``python -m greenworker.exporter``. One process for all queues of one broker.

It never invents a number: while the broker does not answer there is ``greenfleet_queue_up 0`` and no depth at all.
"""
