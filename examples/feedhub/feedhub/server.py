"""The feed server: thousands of feeds that answer slowly, for almost no CPU.

`GET /feeds/<number>` answers an Atom document of about 4 kB after 50 to 500 ms. Both depend on the number only, so that
two runs do the same work. `GET /healthz` answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
from functools import lru_cache

FASTEST_SECONDS, SLOWEST_SECONDS = 0.05, 0.5
ENTRIES = 12


def latency_seconds(number: int) -> float:
    """How long feed `number` takes, always the same."""
    return random.Random(number).uniform(FASTEST_SECONDS, SLOWEST_SECONDS)


def _summary(index: int) -> str:
    chance = random.Random(f"entry {index}")
    words = ("green", "thread", "queue", "wait", "feed", "worker", "broker", "message", "fleet", "hub")
    return " ".join(chance.choices(words, k=36))


SUMMARIES = tuple(_summary(index) for index in range(16))


@lru_cache(maxsize=8192)
def document(number: int) -> bytes:
    """Feed `number` as an Atom document."""
    entries = "".join(
        f"<entry><id>urn:feed:{number}:{index}</id><title>Entry {index}</title>"
        f"<updated>2026-01-{index + 1:02}T00:00:00Z</updated>"
        f"<summary>{SUMMARIES[(number + index) % len(SUMMARIES)]}</summary></entry>"
        for index in range(ENTRIES)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?><feed xmlns="http://www.w3.org/2005/Atom">'
        f"<id>urn:feed:{number}</id><title>Feed {number}</title>{entries}</feed>"
    ).encode()


def answer(status: str, body: bytes, kind: str) -> bytes:
    """One HTTP answer on a connection that stays open."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class FeedProtocol(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, for clients that wait for each answer.

    A raw protocol and one timer per request: 20,000 feeds cost about a second of CPU, which leaves the machine to what
    the demo is about.
    """

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, self._received = self._received[:end], self._received[end + 4 :]
            self._request(head.split(b"\r\n", 1)[0].decode("latin-1"))

    def _request(self, line: str) -> None:
        _, _, target = line.partition(" ")
        path = target.split(" ", 1)[0]
        number = path.removeprefix("/feeds/")
        if path != number and number.isdecimal():
            body = answer("200 OK", document(int(number)), "application/atom+xml")
            asyncio.get_running_loop().call_later(latency_seconds(int(number)), self._send, body)
        elif path == "/healthz":
            self._send(answer("200 OK", b"ok\n", "text/plain"))
        else:
            self._send(answer("404 Not Found", b"no such feed\n", "text/plain"))

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


async def serve(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(FeedProtocol, host, port, backlog=4096)
    print(f"feeds on {host}:{port}", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    """`python -m feedhub.server`"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.host, arguments.port))


if __name__ == "__main__":
    main()
