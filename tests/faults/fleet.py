"""Workers that are kept alive as kubelet keeps pods: who ends is started anew, who fails its liveness probe is
killed.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Protocol

from tests.faults.history import CONSUMES_SECONDS, Process, parse
from tests.integration.worker.harness import Worker

APPS = Path(__file__).parent / "apps"
DRAIN_SECONDS = 4
GRACE_SECONDS = DRAIN_SECONDS + 15.0
"""So long after SIGTERM a worker is killed: kubelet's grace period."""
RESTART_AFTER_SECONDS = 5
LOG_LINES = 15
"""Of a worker that ended by itself: its traceback."""
_PROBE_SECONDS, _PROBE_FAILURES = 1.0, 3


@dataclass
class Member:
    """One place of the fleet, and who fills it now."""

    worker: Worker
    started: bool = False
    """Its startup probe has passed: from now on it has to be live."""
    failures: int = 0
    frozen: bool = False
    """Not probed: the nemesis wants it back."""
    seen_alive_at: float = field(default_factory=monotonic)


@dataclass(frozen=True)
class Ended:
    """A worker that was not asked to."""

    name: str
    status: int
    seen_alive_at: float
    at: float
    log: str = ""
    """The last lines of it."""


@dataclass(frozen=True)
class Drained:
    """A worker that was told to end."""

    status: int
    at: float
    overran: bool
    """Whether it was killed because it took too long."""


class Fleet:
    """*size* Eventlet workers and one prefork companion."""

    def __init__(  # noqa: PLR0917 - a fleet has as many parts as it has
        self, url: str, directory: Path, queue: str, size: int, environment: Mapping[str, str], threads: int = 20,
        *, own_clocks: bool = False,
    ) -> None:  # fmt: skip
        self.killed: list[tuple[str, float]] = []
        """Who was killed by the probe, and when."""
        self.ended: list[Ended] = []
        self._told: dict[str, float] = {}
        """Who was told to drain, and when."""
        self._drained: dict[str, Drained] = {}
        self._started: dict[str, float] = {}
        self.clocks: dict[str, Path] = {}
        """Of each Eventlet worker that has a clock of its own: the file that says how far it is off."""
        self.members: list[Member] = []
        self._workers: list[Worker] = []
        self._url, self._directory, self._queue = url, directory, queue
        self.own_clocks = own_clocks
        self._clock_library = clock_library(directory) if own_clocks else None
        self._environment = {
            "GREENWORKER_DRAIN_SECONDS": str(DRAIN_SECONDS),
            "GREENWORKER_RESTART_AFTER_SECONDS": str(RESTART_AFTER_SECONDS),
            "GREENWORKER_PREFORK_TASKS": '["fault_app.heavy"]',
            "JOURNAL": str(directory / "done"),
            **environment,
        }
        (directory / "done").touch()
        self._threads = threads
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        for _ in range(size):
            self.members.append(self._member())
        self.companion = self._member(prefork=True)
        self._thread = threading.Thread(target=self._keep, name="fleet", daemon=True)
        self._thread.start()

    @property
    def done_file(self) -> Path:
        return self._directory / "done"

    def processes(self) -> dict[str, int]:
        """Name → process id of all workers that were started and live, those included that drain."""
        return {worker.name: worker.process.pid for worker in self._workers if worker.process and not worker.gone()}

    def records(self) -> list[Process]:
        """All worker processes that there were so far."""
        now, ended = monotonic(), {one.name: one for one in self.ended}
        return [self._record(worker, ended.get(worker.name), now) for worker in self._workers]

    def _record(self, worker: Worker, ended: Ended | None, now: float) -> Process:
        name, told = worker.name, self._told.get(worker.name)
        start, companion = self._started[name], worker.pool == "prefork"
        if told is not None:
            left = self._drained.get(name)
            if left is None:
                return Process(name, start, told, told=True, companion=companion)
            log = worker.tail(LOG_LINES) if left.status else ""
            return Process(name, start, told, True, left.status, left.at, left.overran, companion, log)
        if ended is not None:
            # It may have ended just after it was seen the last time.
            return Process(name, start, ended.seen_alive_at, False, ended.status, ended.at, False, companion, ended.log)
        return Process(name, start, now, companion=companion)

    def ready(self) -> None:
        """Waits until all are."""
        for member in [*self.members, self.companion]:
            member.worker.ready(60)

    def stop(self) -> None:
        """Ends all of them at once."""
        self._stop.set()
        self._thread.join(30)
        for member in [*self.members, self.companion]:
            process = member.worker.process
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
            member.worker.stop()

    def replace(self, member: Member) -> str:
        """As a rollout: a new one comes, the old one drains beside it; who left."""
        with self._lock:
            old = member.worker
            self._told[old.name] = monotonic()
            self._fill(member)
        old.signal(signal.SIGTERM)
        threading.Thread(target=self._reap, args=(old,), daemon=True).start()
        return old.name

    def _reap(self, worker: Worker) -> None:
        overran = False
        try:
            worker.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            overran = not self._stop.is_set()
            worker.stop()
        self._drained[worker.name] = Drained(worker.wait(10), monotonic(), overran)

    def _member(self, *, prefork: bool = False) -> Member:
        return Member(self._worker(prefork=prefork))

    def _fill(self, member: Member) -> None:
        member.worker = self._worker(prefork=member is self.companion)
        member.started, member.failures, member.seen_alive_at = False, 0, monotonic()

    def _worker(self, *, prefork: bool) -> Worker:
        name = f"{'p' if prefork else 'w'}{next(self._numbers)}"
        worker = Worker(
            self._url, self._directory / "workers", app="fault_app", cwd=APPS, name=name, threads=self._threads,
            queues=f"{self._queue}.prefork" if prefork else self._queue, pool="prefork" if prefork else "eventlet",
            arguments=["-c", "2"] if prefork else [], piped=True,
            environment={**self._environment, **({} if prefork else self._clock(name))},
        ).start()  # fmt: skip
        self._started[name] = monotonic()
        self._workers.append(worker)
        return worker

    def _clock(self, name: str) -> dict[str, str]:
        if self._clock_library is None:
            return {}
        file = self.clocks[name] = self._directory / f"clock-{name}"
        set_clock(file, 0)
        return {"LD_PRELOAD": str(self._clock_library), "CLOCK_OFFSET_FILE": str(file)}

    def _keep(self) -> None:
        while not self._stop.wait(_PROBE_SECONDS):
            for member in [*self.members, self.companion]:
                self._look(member)

    def _look(self, member: Member) -> None:
        with self._lock:
            worker = member.worker
            if worker.gone():
                assert worker.process is not None
                status = worker.process.returncode
                self.ended.append(Ended(worker.name, status, member.seen_alive_at, monotonic(), worker.tail(LOG_LINES)))
                self._fill(member)
                return
            member.seen_alive_at = monotonic()
        # Outside of the lock: an answer may take its time.
        alive = member.frozen or worker.status("/healthz" if member.started else "/readyz") == 200
        with self._lock:
            if member.worker is not worker:
                return
            if not member.started:
                member.started = alive
                return
            member.failures = 0 if alive else member.failures + 1
            if member.failures >= _PROBE_FAILURES:
                self.killed.append((worker.name, monotonic()))
                worker.signal(signal.SIGKILL)


class Workers(Protocol):
    """Of a fleet: the log that its tasks write, and all processes that there were so far."""

    @property
    def done_file(self) -> Path:
        """One line for each event: `fault_app.note`."""

    def records(self) -> list[Process]:
        """Those that live and those that have ended."""


def until_all_consume(fleet: Workers) -> None:
    """Until each worker has begun a task since now, or since its own start, or has had its time for that. There has to
    be work for them meanwhile.
    """
    after = monotonic()
    while True:
        events = parse(fleet.done_file.read_text().splitlines())
        last = {event.worker: event.at for event in events if event.what == "begun"}
        living = [one for one in fleet.records() if one.status is None and not one.told]
        if all(
            last.get(one.worker, 0.0) > after or monotonic() > max(after, one.start) + CONSUMES_SECONDS + 1.0
            for one in living
        ):
            return
        sleep(0.5)


def clock_library(directory: Path) -> Path | None:
    """`clock.c`, compiled; None without a C compiler."""
    library = directory / "clock.so"
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(Path(__file__).with_name("clock.c"))]
    subprocess.run(command, check=True)
    return library


def set_clock(file: Path, seconds: int) -> None:
    """Whoever has *file* open sees it at once."""
    with file.open("r+b" if file.exists() else "wb") as opened:
        opened.write(seconds.to_bytes(8, sys.byteorder, signed=True))


def local_addresses(process: int) -> set[tuple[str, int]]:
    """Address and port of this side of each IPv4 connection of a process; none of one that has ended."""
    folder = Path(f"/proc/{process}")
    mine = set()
    for handle in (folder / "fd").glob("*"):
        with suppress(OSError):  # closed meanwhile
            mine.add(str(handle.readlink()))
    found = set()
    try:
        lines = (folder / "net/tcp").read_text().splitlines()[1:]
    except OSError:
        return found
    for line in lines:
        words = line.split()
        if f"socket:[{words[9]}]" in mine:
            address, port = words[1].split(":")
            found.add((socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)))
    return found
