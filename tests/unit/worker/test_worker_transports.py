"""What the worker's transports put on the wire and take from it, beside what py-amqp and kombu do."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest
from amqp.exceptions import UnexpectedFrame
from amqp.method_framing import frame_writer
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st

from greenworker.bootstrap import settings
from greenworker.brokers.amqp import transport
from greenworker.brokers.redis import unacked_store


class Wire:
    """Keeps what a frame writer writes."""

    def __init__(self) -> None:
        self.written = b""
        self.frame_max = 131_072
        self.bytes_sent = 0

    def write(self, data: bytes) -> None:
        self.written += bytes(data)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


FRAMES = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(0, 65_535), st.binary(max_size=300)), min_size=1, max_size=8
)


@given(frames=FRAMES, data=st.data())
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    frames: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(frame(*parts) for parts in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    buffer, found = transport.Frames(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer.add(stream[begin:end])
        while (parts := buffer.next()) is not None:
            found.append(parts)
    assert found == frames


def test_a_stream_that_is_not_amqp_is_refused() -> None:
    buffer = transport.Frames()
    buffer.add(frame(1, 1, b"abc")[:-1] + b"\x00")
    with pytest.raises(UnexpectedFrame):
        buffer.next()


@given(tag=st.integers(1, 2**64 - 1), channel=st.integers(1, 65_535))
def test_an_acknowledgement_is_py_amqps_own_frame(tag: int, channel: int) -> None:
    wire: Any = Wire()
    frame_writer(wire, wire)(1, channel, (60, 80), dumps("Lb", (tag, False)), None)
    assert transport.acknowledgements(channel, [tag]) == wire.written


def test_json_is_decoded_as_kombu_decodes_it() -> None:
    from kombu.serialization import dumps as encode
    from kombu.serialization import loads, registry
    from kombu.utils import json as stock

    settings.decode_json_with_one_decoder()
    try:
        value = [["ä", 1, None], {"when": {"nested": [1.5, True]}}, {"raw": b"\xff\x00"}]
        content_type, encoding, text = encode(value, serializer="json")
        assert loads(text, content_type, encoding) == value
        assert loads(text.encode(), content_type, encoding) == value
        with pytest.raises(Exception, match="Expecting"):
            loads("[1,", content_type, encoding)
    finally:
        registry.register("json", stock.dumps, stock.loads, "application/json", "utf-8")


def test_acknowledgements_that_did_not_arrive_are_sent_again_and_count_as_ours_meanwhile() -> None:
    store = unacked_store.UnackedStore("w")
    store.held = {tag: unacked_store.Delivery("q", b"", 0.0) for tag in ("a", "b", "c")}
    store.ack("a")
    store.ack("b")
    with pytest.raises(OSError, match="gone"), store._sending_acks() as tags:
        assert tags == ["a", "b"]
        store.ack("c")  # another task ends meanwhile
        with store._sending_acks() as others:
            assert others == ["c"], "no acknowledgement travels twice at once"
        assert store.unsettled() == {"a", "b"}
        raise OSError("gone")
    with store._sending_acks() as tags:
        assert tags == ["a", "b"]
    assert not store.unsettled()
