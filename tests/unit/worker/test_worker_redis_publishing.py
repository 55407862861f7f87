"""A channel on Redis that was closed says so in a way after which kombu connects anew."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import pytest
from amqp.exceptions import RecoverableConnectionError
from kombu import Connection
from kombu.transport.redis import Channel

from greenworker.brokers.redis.publishing import notice_closed_channels


def test_to_publish_over_a_closed_channel_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Channel, "basic_publish", Channel.basic_publish)  # restored afterwards
    notice_closed_channels()
    once = Channel.basic_publish
    notice_closed_channels()
    assert Channel.basic_publish is once, "it is changed once"
    channel = object.__new__(Channel)
    channel.connection = None
    with pytest.raises(RecoverableConnectionError):
        channel.basic_publish({}, exchange="", routing_key="feeds")
    assert issubclass(RecoverableConnectionError, Connection("redis://").recoverable_connection_errors)
