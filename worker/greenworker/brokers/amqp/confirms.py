"""What the app publishes over AMQP waits for its confirmation, but not for ever.

Celery acknowledges a task over one connection after its retry, or the next task of its chain, was written to another
one. Without a confirmation nobody knows whether the broker has read that: with the connection, or with the node behind
it, the message would be gone and the original acknowledged. py-amqp waits for a confirmation as long as the connection
seems to live, and a connection that has fallen silent seems to live for ever.

What RabbitMQ cannot do for the moment is a lost connection as well, for who publishes and for who consumes: to py-amqp
a queue whose node is down is as one that does not exist, and neither kombu nor Celery tries that again.
"""

# mypy: disable-error-code="no-untyped-call,misc"

from __future__ import annotations

import time
from contextlib import suppress
from time import monotonic
from typing import Any

from amqp import spec
from amqp.exceptions import AMQPError, MessageNacked, RecoverableConnectionError
from kombu.transport import TRANSPORT_ALIASES, pyamqp

from greenworker.brokers.declarations import unavailable

CONFIRM_SECONDS = 15.0
"""Within so long a broker has written down what it was sent. After that Celery publishes again, over a new
connection.
"""

UNAVAILABLE_SECONDS = 1.0
"""How long an error waits that says what the broker cannot do for now. The next connection is made at once, and tries
are counted: `settings.PUBLISH_RETRY_POLICY` has 180 of them for three minutes.
"""


class Channel(pyamqp.Channel):
    """Gives a connection up that does not confirm, or whose broker cannot reach a queue."""

    _confirm_selected: bool

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        """The broker closes the channel. Raises `UnavailableError` if that may be another time."""
        connection, found = self.connection, unavailable(reply_code, reply_text)
        if found is None or self.is_closing or connection.is_closing:
            super()._on_close(reply_code, reply_text, class_id, method_id)
            return
        connection.collect()
        time.sleep(UNAVAILABLE_SECONDS)  # green where the worker is
        raise found

    def basic_publish_confirm(
        self, *args: Any, timeout: float | None = None, confirm_timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """As py-amqp's. Raises RecoverableConnectionError if no confirmation comes; while the broker says that it
        blocks who publishes, it is waited for.
        """
        if not self._confirm_selected:
            self._confirm_selected = True
            self.confirm_select()
        returned = self._basic_publish(*args, timeout=timeout, **kwargs)
        seconds = confirm_timeout or timeout or CONFIRM_SECONDS
        while True:
            asked_at = monotonic()
            try:
                self.wait([spec.Basic.Ack, spec.Basic.Nack], callback=_refuse_nack, timeout=seconds)
            except TimeoutError as error:
                connection = self.connection
                if connection is None or monotonic() - asked_at < seconds:
                    raise  # a limit of the caller's, who closes the connection
                if connection.blocked:
                    continue
                connection.collect()  # a confirmation that comes later would be taken for the next one's
                raise RecoverableConnectionError(f"not confirmed within {seconds:g} s") from error
            return returned


class Connection(pyamqp.Connection):
    """Knows whether the broker blocks who publishes, and what it cannot do for now."""

    Channel = Channel
    blocked = False

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        """The broker closes the connection. Raises `UnavailableError` if another one may do better."""
        found = unavailable(reply_code, reply_text)
        if found is None:
            super()._on_close(reply_code, reply_text, class_id, method_id)
            return
        with suppress(AMQPError):
            super()._on_close(reply_code, reply_text, class_id, method_id)
        time.sleep(UNAVAILABLE_SECONDS)
        raise found

    def _on_blocked(self) -> Any:
        self.blocked = True
        return super()._on_blocked()

    def _on_unblocked(self) -> Any:
        self.blocked = False
        return super()._on_unblocked()


class Transport(pyamqp.Transport):
    """What ``amqp://`` means after `install`."""

    Connection = Connection


def install() -> None:
    """For connections of this process from now on."""
    for scheme in ("amqp", "pyamqp"):
        TRANSPORT_ALIASES[scheme] = "greenworker.brokers.amqp.confirms:Transport"
    TRANSPORT_ALIASES["amqps"] = "greenworker.brokers.amqp.tls:SSLTransport"


def _refuse_nack(method: Any, *_: Any) -> None:
    if method == spec.Basic.Nack:
        raise MessageNacked
