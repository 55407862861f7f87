"""The feeds: an HTTP server in a process of its own, cheap enough never to be what is measured.

Each feed is about 4 KB and takes between 50 and 200 ms, always the same for the same number. ``/stats`` says at once
how many were served, by this process's clock: what is counted is counted here, in the same way for every worker.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

HOSTS = 8
LATENCY_SECONDS = (0.05, 0.2)
ITEM = (
    b"<item><title>An entry</title><link>http://example.com/entry</link><description>Some words.</description></item>\n"
)
BODY = b'<?xml version="1.0"?><rss version="2.0"><channel><title>A feed</title>\n' + ITEM * 36 + b"</channel></rss>\n"
FEED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/rss+xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    % len(BODY)
) + BODY


def latency_seconds(number: int) -> float:
    """Uniform over the range, and the same for the same feed (a multiplicative hash, Knuth's constant)."""
    low, high = LATENCY_SECONDS
    return low + (high - low) * ((number * 2654435761) % 2**32) / 2**32


class Feeds(asyncio.Protocol):
    """One connection, one feed."""

    served = 0

    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        if b"\r\n\r\n" not in self.received:
            return
        path = self.received.split(b" ", 2)[1]
        if path == b"/stats":
            body = json.dumps({"served": Feeds.served, "at": time.monotonic(), "cpu": time.process_time()}).encode()
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            self.transport.close()
        else:
            asyncio.get_running_loop().call_later(latency_seconds(int(path[1:])), self.answer)

    def answer(self) -> None:
        if not self.transport.is_closing():
            Feeds.served += 1
            self.transport.write(FEED)
            self.transport.close()


async def serve(port: int) -> None:
    """For ever, on the loopback addresses that the clients use."""
    loop = asyncio.get_running_loop()
    for number in range(HOSTS):
        await loop.create_server(Feeds, f"127.0.0.{1 + number}", port, backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
