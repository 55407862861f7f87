"""One kind of broker, as one process of a worker uses it: what Redis and RabbitMQ differ in besides the settlement.

`factory.kind_of` makes it for the app; the runtime has it from then on, and nobody asks for the kind again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from greenworker.brokers.settlement import Settlement, Surroundings
from greenworker.environment import Environment
from greenworker.monitoring.task_risks import AckTimeout
from greenworker.tls import Trust

if TYPE_CHECKING:
    from greenworker.runtime import Runtime


class BrokerKind(Protocol):
    """Of one process."""

    @property
    def secure(self) -> bool:
        """Whether its URL asks for TLS."""

    def tls_options(self, trust: Trust) -> dict[str, Any]:
        """For Celery's ``broker_use_ssl``."""

    def merge_options(self, app: Any, environment: Environment, master_name: str) -> None:
        """Complete the app's ``broker_transport_options``, which win. Raises `MisconfiguredError` where they contradict
        the resource. *master_name*: of Redis Sentinel, from the URL.
        """

    def ack_timeout(self, app: Any, environment: Environment) -> AckTimeout:
        """How long it leaves a message with a worker."""

    def prepare(self, runtime: Runtime, *, companion: bool) -> None:
        """Before Celery starts, with our green pool or as the prefork *companion*. Raises `MisconfiguredError` without
        the broker's library.
        """

    def remote_control_starts(self, app: Any, hostname: str) -> None:
        """Celery consumes remote control commands under this name of the worker."""

    def connection(self, app: Any, heartbeat: Any) -> Any:
        """What the green consumer consumes from: kombu's, not connected yet."""

    def companion_connection(self, app: Any, heartbeat: Any) -> Any:
        """The same for the prefork companion."""

    def settlement(self, surroundings: Surroundings) -> Settlement:
        """Of one consumer."""


def urls_of(setting: Any) -> list[str]:
    """Of a setting that may be a URL, several with ``;`` between them, or a list of them."""
    each = setting if isinstance(setting, (list, tuple)) else str(setting or "").split(";")
    return [str(url) for url in each]


def broker_scheme(app: Any) -> str:
    """Of the broker that the worker consumes from."""
    url = next(iter(urls_of(app.conf.broker_read_url)), "")
    return str((url.split("://")[0] if "://" in url else app.conf.broker_transport) or "")


def connection_with(transports: Mapping[str, str], app: Any, heartbeat: Any) -> Any:
    """A connection with our transport for the scheme of the app's broker. It stays with our transports when kombu goes
    to the next of several URLs: there it takes the URL's own scheme. *transports*: ours, by scheme.
    """
    connection = app.connection_for_read(heartbeat=heartbeat, transport=transports[broker_scheme(app)])
    switch = connection.switch

    def switch_and_keep(url: str) -> None:
        switch(url)
        connection.transport_cls = transports.get(str(connection.transport_cls), connection.transport_cls)

    connection.switch = switch_and_keep
    return connection
