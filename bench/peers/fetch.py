"""One feed: the same HTTP client for every worker. The standard library's, for it is what each green library patches.

A new connection for every feed, as a hub that fetches from thousands of hosts has it.
"""

import http.client
import os

PORT = int(os.environ.get("BENCH_FEEDS_PORT") or "0")
HOSTS = 8
"""Loopback addresses that the server listens on: with one, a minute of closed connections would use up the ports."""


def feed(number: int) -> int:
    """Fetch feed *number* and count its entries."""
    connection = http.client.HTTPConnection(f"127.0.0.{1 + number % HOSTS}", PORT, timeout=20)
    try:
        connection.request("GET", f"/{number}")
        return connection.getresponse().read().count(b"<item>")
    finally:
        connection.close()
