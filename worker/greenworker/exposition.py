"""/metrics, /healthz and /readyz from a real operating-system thread.

Nothing here touches the hub: a scrape and a probe answer while it is blocked. Sockets are the unpatched C ones.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from greenworker import unpatched
from greenworker.fatal import MisconfiguredError
from greenworker.metrics import CONTENT_TYPE
from greenworker.redaction import redacted

REQUEST_SECONDS = 2.0
"""For a whole request, from the connection to its last byte: a client that takes longer is dropped, however busy it is. So long may it
take to read the answer. kubelet's own probe timeout is 1 s by default.
"""

CONCURRENT_REQUESTS = 16
"""A scrape and two probes need three. Who comes when there are so many takes the place of the one that has been asking longest."""

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


def listen(port: int) -> unpatched.Socket:
    """Takes the port, so that whoever connects from now on is answered as soon as there is an `Exposition`: the first thing that a
    process does, for kubelet's first probe comes before an application is imported. Raises `MisconfiguredError`.
    """
    problem: OSError | None = None
    for family, address in ((unpatched.AF_INET6, "::"), (unpatched.AF_INET, "0.0.0.0")):  # noqa: S104 - kubelet asks
        try:
            listener = unpatched.Socket(family, unpatched.SOCK_STREAM)
            if family == unpatched.AF_INET6:
                listener.setsockopt(unpatched.IPPROTO_IPV6, unpatched.IPV6_V6ONLY, 0)
            listener.setsockopt(unpatched.SOL_SOCKET, unpatched.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(64)
            return listener
        except OSError as error:
            problem = error
    raise MisconfiguredError(
        "GREENWORKER_METRICS_PORT", port, f"cannot listen for scrapes and probes: {problem}",
        "free the port, or let the operator choose another",
    )  # fmt: skip


class Exposition:
    """A very small HTTP/1.1 server: GET, one request per connection."""

    def __init__(
        self,
        listener: unpatched.Socket,
        metrics: Callable[[], bytes],
        healthy: Callable[[], str],
        ready: Callable[[], str],
        woke: Callable[[], None] = lambda: None,
    ) -> None:
        """*listener* is from `listen`. *healthy* and *ready* say what is wrong; an empty text means that nothing is. *woke* is called first of all
        whenever a request has come in.
        """
        self.metrics = metrics
        self.healthy = healthy
        self.ready = ready
        self.woke = woke
        self._asking: dict[int, unpatched.Socket] = {}
        """Connections whose request is not complete, the oldest first, by a number of their own."""
        self._open: set[int] = set()
        self.listener = listener
        self.port: int = listener.getsockname()[1]

    def start(self) -> None:
        """Serve until the process ends."""
        unpatched.start_thread(self._accept, ())

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                descriptor, _ = self.listener._accept()  # type: ignore[attr-defined]
                self.woke()
            except OSError:
                unpatched.sleep(0.05)
                continue
            connection = unpatched.Socket(fileno=descriptor)
            if len(self._open) >= CONCURRENT_REQUESTS and not self._make_room():
                connection.close()
                continue
            number += 1
            self._open.add(number)
            self._asking[number] = connection
            unpatched.start_thread(self._serve, (number, connection, monotonic() + REQUEST_SECONDS))

    def _make_room(self) -> bool:
        """Drops the connection that has been asking longest. Its thread finds out by itself."""
        for number in list(self._asking):
            victim = self._asking.pop(number, None)
            if victim is not None:
                with suppress(OSError):
                    victim.shutdown(unpatched.SHUT_RDWR)
                return True
        return False

    def _read(self, connection: unpatched.Socket, deadline: float) -> bytes:
        """The head of a request; empty if the client has left. Raises TimeoutError after the deadline."""
        request = b""
        while b"\r\n\r\n" not in request and len(request) < 16_384:
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            received = connection.recv(4096)
            self.woke()
            if not received:
                return b""
            request += received
        return request

    def _serve(self, number: int, connection: unpatched.Socket, deadline: float) -> None:
        try:
            request = self._read(connection, deadline)
            if self._asking.pop(number, None) is None or not request:
                return
            line = request.split(b"\r\n", 1)[0].split()
            path = line[1].split(b"?")[0].decode("ascii", "replace") if len(line) > 1 else "/"
            status, kind, body = self.answer(path)
            reason = {200: "OK", 404: "Not Found", 500: "Internal Server Error"}.get(status, "Service Unavailable")
            head = (
                f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            connection.settimeout(REQUEST_SECONDS)  # for all of it
            connection.sendall(head.encode() + (b"" if line[:1] == [b"HEAD"] else body))
        except OSError:
            pass
        finally:
            self._asking.pop(number, None)
            self._open.discard(number)
            connection.close()

    def answer(self, path: str) -> Answer:
        """What GET *path* returns."""
        try:
            if path == "/metrics":
                return 200, CONTENT_TYPE, self.metrics()
            if path in ("/healthz", "/readyz"):
                problem = self.healthy() if path == "/healthz" else self.ready()
                return (503 if problem else 200), "text/plain", (redacted(problem) or "ok").encode() + b"\n"
        except Exception as error:
            unpatched.say(f"{path}: {error!r}")
            return 500, "text/plain", redacted(repr(error)).encode() + b"\n"
        return 404, "text/plain", b"/metrics, /healthz, /readyz\n"
