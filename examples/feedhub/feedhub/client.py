"""A small HTTP client for many green threads: keep-alive, nothing else.

`http.client` costs 0.6 ms of CPU a feed where the popular clients cost 1.6 ms and more: with hundreds of feeds a second
that is the difference between one worker and three.
"""

from __future__ import annotations

import http.client
from collections import deque
from urllib.parse import urlsplit


class FeedClient:
    """GET over connections that are kept open: one for each green thread that waits, taken and given back.

    The pool needs no lock: under Eventlet nothing switches between `pop` and its use, and a deque is safe for threads.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 10.0) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "localhost"
        self._port = parts.port or 80
        self._timeout_seconds = timeout_seconds
        self._idle: deque[http.client.HTTPConnection] = deque()

    def get(self, path: str) -> bytes:
        """The body of an answer 200. A connection that the server closed while it was idle is replaced once."""
        try:
            reused = self._idle.pop()
        except IndexError:
            return self._exchange(self._connection(), path)
        try:
            return self._exchange(reused, path)
        except (ConnectionError, http.client.BadStatusLine):
            return self._exchange(self._connection(), path)

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_seconds)

    def _exchange(self, connection: http.client.HTTPConnection, path: str) -> bytes:
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except BaseException:  # a killed green thread too: half an answer must not stay in the pool
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"GET {path}: {response.status} {response.reason}")
        return body
