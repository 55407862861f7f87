"""kombu's AMQP transport with fewer system calls; for the worker's own consumer only.

py-amqp asks the socket for each frame's seven bytes of head, then for its body, then for its end, three frames a
message, and sends every acknowledgement by itself. Here the socket is read in large pieces, everything that has arrived
is handled before it is read again, and the acknowledgements of one turn of the hub travel in one send. Each is still a
frame of its
own: `multiple` would settle what runs. The bytes on the wire are the same.
"""

# mypy: disable-error-code="no-untyped-call,misc"

from __future__ import annotations

import errno
from struct import Struct
from threading import Lock
from typing import Any, ClassVar

from amqp.exceptions import RecoverableConnectionError, UnexpectedFrame
from amqp.method_framing import frame_writer
from celery.utils.log import get_logger
from kombu.transport import pyamqp

from greenworker import hub
from greenworker.brokers.amqp import confirms
from greenworker.brokers.amqp.prefetch import Unsettled
from greenworker.brokers.amqp.tls import NameChecked
from greenworker.monitoring.task_risks import TaskRisks

logger = get_logger(__name__)

READ_BYTES = 65_536
"""Asked for at once; a message of Celery's has 0.7 KB."""

MESSAGES_AT_ONCE = 100
"""Handled before others get the hub. A tenth of a millisecond each."""

HEAD = Struct(">BHI")
"""A frame's type, channel and size (AMQP 0-9-1, 4.2.3)."""

FRAME_END = 0xCE

ACK = Struct(">BHIHHQBB")
"""A whole frame: method, channel, 13 bytes, class 60 (basic), method 80 (ack), delivery tag, multiple, end."""

UNAVAILABLE = (errno.EAGAIN, errno.EINTR, errno.ENOENT)
"""Not an end of the connection: ask again."""


def acknowledgements(channel: int, tags: list[int]) -> bytes:
    """One frame for each delivery tag."""
    return b"".join([ACK.pack(1, channel, 13, 60, 80, tag, 0, FRAME_END) for tag in tags])


class Frames:
    """What was received and not yet handled. A frame is a type, a channel and a payload."""

    def __init__(self) -> None:
        self._received = b""
        self._position = 0

    def add(self, data: bytes) -> None:
        """More of the stream."""
        self._received = self._received[self._position :] + data
        self._position = 0

    def next(self) -> tuple[int, int, bytes] | None:
        """The next one, if all of it is there. Raises UnexpectedFrame if the stream is not AMQP."""
        received, start = self._received, self._position
        if len(received) - start < HEAD.size:
            return None
        kind, channel, size = HEAD.unpack_from(received, start)
        end = start + HEAD.size + size
        if len(received) <= end:
            return None
        if received[end] != FRAME_END:
            raise UnexpectedFrame(f"Received frame_end {received[end]:#04x} while expecting 0xce")
        self._position = end + 1
        return kind, channel, received[start + HEAD.size : end]


class Channel(confirms.Channel):
    """Acknowledges once in a turn of the hub, and knows what is unsettled."""

    task_risks: ClassVar[TaskRisks]
    """Set by `AmqpKind`: kombu makes channels, and has nothing of ours to pass to them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._acks: list[int] = []
        self.unsettled = Unsettled()
        super().__init__(*args, **kwargs)

    def basic_ack(self, delivery_tag: int, multiple: bool = False, argsig: str = "Lb") -> Any:
        """Sent as soon as everything else that can run now has run. Raises as before if the connection is gone."""
        if multiple:
            self.unsettled.settled_until(delivery_tag)
            self.flush()
            return super().basic_ack(delivery_tag, multiple=multiple, argsig=argsig)
        if self.connection is None:
            raise RecoverableConnectionError("connection already closed")
        if not self._acks:
            hub.spawn(self._flush_soon)
        self._acks.append(delivery_tag)
        self.unsettled.settled(delivery_tag)
        return None

    def basic_reject(self, delivery_tag: int, *args: Any, **kwargs: Any) -> Any:
        """The other way to settle a message."""
        self.unsettled.settled(delivery_tag)
        return super().basic_reject(delivery_tag, *args, **kwargs)

    def basic_consume(self, *args: Any, consumer_tag: str = "", callback: Any = None, **kwargs: Any) -> Any:
        """py-amqp notes the callback when the broker has answered. Here messages are handled in the same turn as the
        answer that they follow, and would find none: py-amqp sends those back.
        """
        if consumer_tag:
            self.callbacks[consumer_tag] = callback
        return super().basic_consume(*args, consumer_tag=consumer_tag, callback=callback, **kwargs)

    def _on_basic_deliver(self, consumer_tag: str, delivery_tag: int, *args: Any) -> None:
        if consumer_tag not in (self.no_ack_consumers or ()):
            self.unsettled.delivered(delivery_tag, consumer_tag)
        super()._on_basic_deliver(consumer_tag, delivery_tag, *args)

    def flush(self) -> None:
        """Send what is acknowledged. Raises the connection's errors: the broker will deliver those messages again."""
        tags, self._acks = self._acks, []
        connection = self.connection
        if not tags:
            return
        if connection is None or connection._transport is None:
            raise RecoverableConnectionError(f"{len(tags)} acknowledgements came after the connection")
        connection.send_raw(acknowledgements(self.channel_id, tags))

    def _flush_soon(self) -> None:
        count = len(self._acks)
        try:
            self.flush()
        except Exception as error:
            self.task_risks.acks_failed += count
            logger.warning("%d acknowledgements could not be sent, the tasks will run again: %r", count, error)

    def _do_revive(self) -> None:
        """The broker has closed the channel and py-amqp opens a new one by the same number: old tags mean nothing
        there.
        """
        self.task_risks.acks_failed += len(self._acks)
        self._acks.clear()
        self.unsettled.clear()
        super()._do_revive()

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """After the last acknowledgement."""
        self._flush_soon()
        return super().close(*args, **kwargs)


class Connection(confirms.Connection):
    """Reads in large pieces and handles all that has arrived."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._frames = Frames()
        self.writing = Lock()
        super().__init__(*args, frame_writer=self._frame_writer_of, **kwargs)

    def _frame_writer_of(self, connection: Any, transport: Any) -> Any:
        write = frame_writer(connection, transport)

        def write_alone(*frame: Any) -> Any:
            with self.writing:
                return write(*frame)

        return write_alone

    def connect(self, callback: Any = None) -> Any:
        """Nothing of an older connection is left."""
        if not self.connected:
            self._frames = Frames()
        return super().connect(callback)

    def send_raw(self, frames: bytes) -> None:
        """Whole frames, never in the middle of another green thread's."""
        with self.writing:
            self.transport.write(frames)
            self.bytes_sent += 1  # what the heartbeat looks at

    def drain_events(self, timeout: float | None = None) -> None:
        """Handle what has arrived; if nothing has, wait for it. Raises TimeoutError after *timeout* seconds."""
        handled = 0
        while handled < MESSAGES_AT_ONCE:
            frame = self._frames.next()
            if frame is not None:
                if self.on_inbound_frame(frame):
                    handled += 1
                    if self._transport is None:
                        return
            elif handled:
                return
            else:
                self._receive(timeout)

    def blocking_read(self, timeout: float | None = None) -> Any:
        """One frame; True if it completed a method."""
        frame = self._frames.next()
        while frame is None:
            self._receive(timeout)
            frame = self._frames.next()
        return self.on_inbound_frame(frame)

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """After the last acknowledgements of all channels."""
        for channel in list((self.channels or {}).values()):
            if channel is not self:
                channel._flush_soon()
        return super().close(*args, **kwargs)

    def _receive(self, timeout: float | None) -> None:
        transport = self.transport
        try:
            with transport.having_timeout(timeout):
                data = transport._quick_recv(READ_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            if error.errno in UNAVAILABLE:
                raise TimeoutError from error
            transport.connected = False
            raise
        if not data:
            transport.connected = False
            raise OSError("Server unexpectedly closed connection")
        self._frames.add(data)


class Transport(pyamqp.Transport):
    """What the worker's consumer connects with when the broker speaks AMQP."""

    Connection = Connection


class SSLTransport(NameChecked, Transport, pyamqp.SSLTransport):
    """The same for ``amqps://``."""
