"""Long-lived processes: started in a session of their own, remembered in pid files, stopped by pid.

A pid alone proves nothing: pids are reused. A pid file therefore also keeps when the process started (in clock ticks
since boot) and in which boot. And because a pid file can be lost, each process carries a mark in its environment, which
its children inherit (containerd's shims do); `marked` finds them all by it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubelocal.errors import ClusterError
from kubelocal.places import Places
from kubelocal.run import system_path, tail, wait_until, write_if_changed

_MARK = "GREENFLEET_CLUSTER"
_LOG_LIMIT_BYTES = 50_000_000
_TERM_SECONDS = 3
"""Enough to close files. The API server and etcd would wait much longer for clients that are about to be
stopped too.
"""

_KILL_SECONDS = 5


@dataclass(frozen=True)
class Process:
    name: str
    argv: tuple[str, ...]
    configuration: tuple[Path, ...] = ()
    """Files whose change calls for a restart."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Changes whenever a running process would no longer be the one that is wanted."""
        contents = [path.read_text() for path in self.configuration]
        return json.dumps([self.argv, sorted(self.environment.items()), contents])


@dataclass(frozen=True)
class _Record:
    pid: int
    started: int
    boot: str
    fingerprint: str

    @property
    def alive(self) -> bool:
        return self.boot == _boot_id() and _start_time(self.pid) == self.started


class Supervisor:
    """Starts and stops the processes of one cluster."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def log(self, name: str) -> Path:
        return self._places.logs / f"{name}.log"

    def pid(self, name: str) -> int | None:
        record = self._read(name)
        return record.pid if record is not None and record.alive else None

    def names(self) -> list[str]:
        directory = self._places.pids
        return sorted(path.stem for path in directory.glob("*.json")) if directory.is_dir() else []

    def ensure(self, process: Process) -> bool:
        """Have this process running with this configuration. True if it had to be started."""
        record = self._read(process.name)
        fingerprint = process.fingerprint()
        if record is not None and record.alive:
            if record.fingerprint == fingerprint:
                return False
            terminate([record.pid])
        # Whoever lost its pid file still holds the ports and the sockets.
        terminate(self._strays(process))
        self._start(process, fingerprint)
        return True

    def check(self, name: str) -> None:
        """Raise, with the end of its log, if the process has ended."""
        if self.pid(name) is None:
            raise ClusterError(f"{name} has ended. {self.explain(name)}")

    def explain(self, name: str) -> str:
        log = self.log(name)
        said = tail(log.read_text(errors="replace")) if log.exists() else "    (no log)"
        return f"The end of {log}:\n{said}"

    def stop(self, names: Iterable[str], *, grace_seconds: float = _TERM_SECONDS) -> None:
        wanted = list(names)
        terminate([pid for name in wanted if (pid := self.pid(name)) is not None], grace_seconds=grace_seconds)
        for name in wanted:
            self._pid_file(name).unlink(missing_ok=True)

    def marked(self) -> list[int]:
        """Every process that descends from one we started, and kept its environment."""
        mark = f"{_MARK}={self._places.state}".encode()
        found = []
        for pid in all_pids():
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if mark in environment.split(b"\0") and _start_time(pid) is not None:
                found.append(pid)
        return found

    def _strays(self, process: Process) -> list[int]:
        return [pid for pid in self.marked() if command_line(pid)[:1] == [process.argv[0]]]

    def _start(self, process: Process, fingerprint: str) -> None:
        log = self.log(process.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        environment = {
            "PATH": system_path(),
            "HOME": str(Path.home()),
            _MARK: str(self._places.state),
            **process.environment,
        }
        with log.open("ab") as sink:
            child = subprocess.Popen(
                process.argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        started = _start_time(child.pid)
        if started is None:
            raise ClusterError(f"{process.name} ended at once. {self.explain(process.name)}")
        record = {"pid": child.pid, "started": started, "boot": _boot_id(), "fingerprint": fingerprint}
        write_if_changed(self._pid_file(process.name), json.dumps(record))

    def _read(self, name: str) -> _Record | None:
        try:
            return _Record(**json.loads(self._pid_file(name).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _pid_file(self, name: str) -> Path:
        return self._places.pids / f"{name}.json"


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 - one call for thousands


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def terminate(pids: Iterable[int], *, grace_seconds: float = _TERM_SECONDS) -> None:
    """SIGTERM to all, then SIGKILL to who is left."""
    started = {pid: ticks for pid in pids if (ticks := _start_time(pid)) is not None}

    def remaining() -> list[int]:
        return [pid for pid, ticks in started.items() if _start_time(pid) == ticks]

    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, _KILL_SECONDS)):
        for pid in remaining():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        if wait_until(lambda: not remaining(), seconds=seconds, interval=0.02):
            return
    raise ClusterError(f"Process {remaining()[0]} does not end, not even on SIGKILL: it hangs in the kernel.")


def _start_time(pid: int) -> int | None:
    """In clock ticks since boot; None if there is no such process, or if it is a zombie that nobody has reaped."""
    try:
        # The second field is the program's name in parentheses, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
