"""/metrics, /healthz and /readyz from a real operating-system thread.

Nothing here touches the hub: a scrape and a probe answer while it is blocked. Sockets are the native C ones.
Standard library only.

The queue exporter uses it too, although its process is not patched and could run `prometheus_client`'s server. That one
gives each client a thread and no deadline: 1,100 clients that send a byte now and then had some 900 threads there, and
2 here. It would also be a second server beside this one, which the worker needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from greenworker import native
from greenworker.misconfigured import MisconfiguredError
from greenworker.monitoring.metrics import CONTENT_TYPE
from greenworker.redaction import redacted

REQUEST_SECONDS = 2.0
"""For a whole request, from the connection to its last byte: a client that takes longer is dropped, however busy it is.
So long may it take to read the answer.
"""

OPEN_REQUESTS = 128
"""Connections whose request is not complete. Each costs a file descriptor and no thread. Who comes when there are so
many takes the place of the oldest.
"""

UNDISTURBED_SECONDS = 0.25
"""A connection has so long at least for its request, however many come after it: who comes meanwhile waits in the
kernel's queue. Without it, clients that come again as soon as they are dropped would drop a probe between its
connection and its request.
"""

BACKLOG = 256
"""The kernel's queue. Its last one waits for BACKLOG * UNDISTURBED_SECONDS / OPEN_REQUESTS = 0.5 s at most; a probe's
time-out is 3 s.
"""

REQUEST_LIMIT_BYTES = 16_384

ANSWERS = 16
"""Scrapes that are answered at once, and as many probes: a thread each."""

PROBES = ("/healthz", "/readyz")

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


def listen(port: int) -> native.Socket:
    """Takes the port, so that whoever connects from now on is answered as soon as there is an `Exposition`: the first
    thing that a process does, for kubelet's first probe comes before an application is imported. Raises
    `MisconfiguredError`.
    """
    problem: OSError | None = None
    for family, address in ((native.AF_INET6, "::"), (native.AF_INET, "0.0.0.0")):  # noqa: S104 - kubelet asks
        try:
            listener = native.Socket(family, native.SOCK_STREAM)
            if family == native.AF_INET6:
                listener.setsockopt(native.IPPROTO_IPV6, native.IPV6_V6ONLY, 0)
            listener.setsockopt(native.SOL_SOCKET, native.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(BACKLOG)
            listener.settimeout(0)
            return listener
        except OSError as error:
            problem = error
    raise MisconfiguredError(
        "GREENWORKER_METRICS_PORT", port, f"cannot listen for scrapes and probes: {problem}",
        "free the port, or let the operator choose another",
    )  # fmt: skip


@dataclass(slots=True)
class Asking:
    """A connection whose request is not complete."""

    connection: native.Socket
    since: float
    request: bytes = b""

    def is_complete(self) -> bool:
        """Its head is there, or more than any head of ours."""
        return b"\r\n\r\n" in self.request or len(self.request) >= REQUEST_LIMIT_BYTES


class Exposition:
    """A very small HTTP/1.1 server: GET, one request per connection. One thread reads all requests; each complete one
    is answered by a thread of its own.
    """

    def __init__(
        self,
        listener: native.Socket,
        metrics: Callable[[], bytes],
        healthy: Callable[[], str],
        ready: Callable[[], str],
        woke: Callable[[], None] = lambda: None,
    ) -> None:
        """*listener* is from `listen`. *healthy* and *ready* say what is wrong; an empty text means that nothing is.
        *woke* is called first of all whenever a request has come in.
        """
        self.metrics = metrics
        self.healthy = healthy
        self.ready = ready
        self.woke = woke
        self._asking: dict[int, Asking] = {}
        """By file descriptor, the oldest first."""
        self._probes: set[native.Socket] = set()
        self._scrapes: set[native.Socket] = set()
        """What is being answered."""
        self._poller = native.poll()
        self.listener = listener
        self.port: int = listener.getsockname()[1]

    def start(self) -> None:
        """Serve until the process ends."""
        self._poller.register(self.listener.fileno(), native.POLLIN)
        native.start_thread(self._serve, ())

    def _serve(self) -> None:
        while True:
            try:
                self._turn()
            except Exception as error:  # such as no memory for a thread: the next request may have more luck
                native.say(f"the metrics port: {error!r}")
                native.sleep(0.05)

    def _turn(self) -> None:
        """Wait for bytes, connections or a deadline."""
        oldest = next(iter(self._asking.values()), None)
        seconds: float | None = None
        accepts = True
        if oldest is not None:
            accepts = len(self._asking) < OPEN_REQUESTS or monotonic() >= oldest.since + UNDISTURBED_SECONDS
            due = oldest.since + (REQUEST_SECONDS if accepts else UNDISTURBED_SECONDS)
            seconds = max(0.0, due - monotonic())
        self._poller.modify(self.listener.fileno(), native.POLLIN if accepts else 0)
        ready = self._poller.poll(None if seconds is None else 1000 * seconds + 1)
        self.woke()
        for descriptor, _ in ready:
            if descriptor in self._asking:
                self._read(descriptor)
        for descriptor, asking in list(self._asking.items()):
            if monotonic() < asking.since + REQUEST_SECONDS:
                break
            self._take(descriptor).close()
        if any(descriptor == self.listener.fileno() for descriptor, _ in ready):
            self._accept()

    def _accept(self) -> None:
        try:
            descriptor, _ = self.listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:  # it has left
            return
        except OSError:  # no file descriptor is free
            native.sleep(0.05)
            return
        connection = native.Socket(fileno=descriptor)
        connection.settimeout(0)
        if len(self._asking) >= OPEN_REQUESTS:
            self._take(next(iter(self._asking))).close()
        self._asking[descriptor] = Asking(connection, monotonic())
        self._poller.register(descriptor, native.POLLIN)

    def _take(self, descriptor: int) -> native.Socket:
        """The connection, which is not read from any more."""
        self._poller.unregister(descriptor)
        return self._asking.pop(descriptor).connection

    def _read(self, descriptor: int) -> None:
        asking = self._asking[descriptor]
        try:
            received = asking.connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        asking.request += received
        if not received:
            self._take(descriptor).close()
        elif asking.is_complete():
            self._begin(self._take(descriptor), asking.request)

    def _begin(self, connection: native.Socket, request: bytes) -> None:
        """Answer it in a thread."""
        line = request.split(b"\r\n", 1)[0].split()
        path = line[1].split(b"?")[0].decode("ascii", "replace") if len(line) > 1 else "/"
        answered = self._probes if path in PROBES else self._scrapes
        if len(answered) >= ANSWERS:
            connection.close()
            return
        answered.add(connection)
        try:
            native.start_thread(self._answer, (connection, path, line[:1] == [b"HEAD"], answered))
        except RuntimeError:
            answered.discard(connection)
            connection.close()
            raise

    def _answer(self, connection: native.Socket, path: str, only_head: bool, answered: set[native.Socket]) -> None:
        try:
            status, kind, body = self.answer(path)
            reason = {200: "OK", 404: "Not Found", 500: "Internal Server Error"}.get(status, "Service Unavailable")
            head = (
                f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            connection.settimeout(REQUEST_SECONDS)  # for all of it
            connection.sendall(head.encode() + (b"" if only_head else body))
        except OSError:
            pass
        finally:
            answered.discard(connection)
            connection.close()

    def answer(self, path: str) -> Answer:
        """What GET *path* returns."""
        try:
            if path == "/metrics":
                return 200, CONTENT_TYPE, self.metrics()
            if path in PROBES:
                problem = self.healthy() if path == "/healthz" else self.ready()
                return (503 if problem else 200), "text/plain", (redacted(problem) or "ok").encode() + b"\n"
        except Exception as error:
            native.say(f"{path}: {error!r}")
            return 500, "text/plain", redacted(repr(error)).encode() + b"\n"
        return 404, "text/plain", b"/metrics, /healthz, /readyz\n"
