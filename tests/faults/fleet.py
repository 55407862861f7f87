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
from time import monotonic

from tests.integration.worker.harness import Worker

APPS = Path(__file__).parent / "apps"
DRAIN_SECONDS = 4
RESTART_AFTER_SECONDS = 5
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


class Fleet:
    """*size* Eventlet workers and one prefork companion."""

    def __init__(  # noqa: PLR0917 - a fleet has as many parts as it has
        self, url: str, directory: Path, queue: str, size: int, environment: Mapping[str, str], threads: int = 20,
        *, own_clocks: bool = False,
    ) -> None:  # fmt: skip
        self.killed: list[tuple[str, float]] = []
        """Who was killed by the probe, and when."""
        self.ended: list[Ended] = []
        self.clocks: dict[str, Path] = {}
        """Of each Eventlet worker that has a clock of its own: the file that says how far it is off."""
        self.members: list[Member] = []
        self._workers: list[Worker] = []
        self._url, self._directory, self._queue = url, directory, queue
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
            self._fill(member)
        old.signal(signal.SIGTERM)
        threading.Thread(target=self._reap, args=(old,), daemon=True).start()
        return old.name

    @staticmethod
    def _reap(worker: Worker) -> None:
        try:
            worker.wait(DRAIN_SECONDS + 15)
        except Exception:
            worker.stop()

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
            arguments=["-c", "2"] if prefork else [],
            environment={**self._environment, **({} if prefork else self._clock(name))},
        ).start()  # fmt: skip
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
                self.ended.append(Ended(worker.name, worker.process.returncode, member.seen_alive_at, monotonic()))
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
