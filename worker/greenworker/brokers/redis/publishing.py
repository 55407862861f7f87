"""What is published over a channel that has been closed is published over a new connection.

kombu declares the queue before it publishes over a new connection. If the broker cannot be reached then, the
declaration connects anew by itself, and kombu goes on to publish over the channel that it has closed. That ends with an
AttributeError, which nobody tries again: a chain ends with FAILURE, and a retry's message goes back.
"""

# mypy: disable-error-code="no-untyped-call,method-assign"

from __future__ import annotations

from typing import Any

from amqp.exceptions import RecoverableConnectionError
from kombu.transport.redis import Channel


def notice_closed_channels() -> None:
    """For all channels of this process, and of those that it forks."""
    stock = Channel.basic_publish
    if hasattr(stock, "notices_closed_channels"):
        return

    def basic_publish(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.connection is None:
            raise RecoverableConnectionError("the channel was closed before its message was published")
        return stock(self, *args, **kwargs)

    setattr(basic_publish, "notices_closed_channels", True)  # noqa: B010 - mypy knows no attributes of functions
    Channel.basic_publish = basic_publish
