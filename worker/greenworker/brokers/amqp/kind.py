"""RabbitMQ, as one process of a worker uses it. What needs its library is imported when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greenworker.brokers.kind import connection_with
from greenworker.brokers.settlement import Settlement, Surroundings
from greenworker.environment import Environment
from greenworker.monitoring.task_risks import CONSUMER, AckTimeout
from greenworker.tls import Trust, amqp_options

if TYPE_CHECKING:
    from greenworker.runtime import Runtime

TRANSPORTS = {
    "amqp": "greenworker.brokers.amqp.transport:Transport",
    "pyamqp": "greenworker.brokers.amqp.transport:Transport",
    "amqps": "greenworker.brokers.amqp.transport:SSLTransport",
}
"""Ours, by the scheme of the URL."""


class AmqpKind:
    """See `kind.BrokerKind`."""

    def __init__(self, scheme: str) -> None:
        self.secure = scheme == "amqps"

    def tls_options(self, trust: Trust) -> dict[str, Any]:
        """See `tls.amqp_options`."""
        return amqp_options(trust)

    def merge_options(self, app: Any, environment: Environment, master_name: str) -> None:
        """What the worker publishes is confirmed: see `confirms`."""
        from greenworker.brokers.amqp import confirms  # noqa: PLC0415 - not before patching

        confirms.install()
        app.conf.broker_transport_options = {"confirm_publish": True, **(app.conf.broker_transport_options or {})}

    def ack_timeout(self, app: Any, environment: Environment) -> AckTimeout:
        """RabbitMQ's. The resource says it: no client can ask for it."""
        return AckTimeout(
            CONSUMER, environment.consumer_timeout_seconds,
            "RabbitMQ then closes the channel, and every task of this worker runs again",
            "raise consumer_timeout on the broker (and say so in broker.consumerTimeout), or split the task",
        )  # fmt: skip

    def prepare(self, runtime: Runtime, *, companion: bool) -> None:
        """kombu makes channels, and has nothing of ours to pass to them."""
        if not companion:
            from greenworker.brokers.amqp import transport  # noqa: PLC0415 - not before patching

            transport.Channel.task_risks = runtime.task_risks

    def remote_control_starts(self, app: Any, hostname: str) -> None:
        """Nothing: a mailbox is a queue that goes with its connection."""

    def connection(self, app: Any, heartbeat: Any) -> Any:
        """See `transport.Transport`."""
        return connection_with(TRANSPORTS, app, heartbeat)

    def companion_connection(self, app: Any, heartbeat: Any) -> Any:
        """kombu's own: Celery's event loop reads it."""
        return app.connection_for_read(heartbeat=heartbeat)

    def settlement(self, surroundings: Surroundings) -> Settlement:
        """See `AmqpSettlement`."""
        from greenworker.brokers.amqp.settlement import AmqpSettlement  # noqa: PLC0415 - not before patching

        return AmqpSettlement(surroundings)
