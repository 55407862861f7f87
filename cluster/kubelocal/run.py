"""Running other programs: errors that show what the program said, locks, and waiting for a condition."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kubelocal.errors import ClusterError

_TAIL_LINES = 25
_SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def system_path(*first: Path) -> str:
    """A PATH that holds the sbin directories too, where Debian puts nft, ip and runc."""
    inherited = os.environ.get("PATH", "").split(":")
    parts = [*map(str, first), *inherited, *_SYSTEM_DIRECTORIES]
    return ":".join(dict.fromkeys(part for part in parts if part))


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    check: bool = True,
) -> str:
    """Run a program to its end and return its standard output; with `log`, all that it says goes there instead."""
    command = [str(part) for part in argv]
    environment = {**os.environ, "PATH": system_path(), **(env or {})}
    with _sink(log) as (output, errors):
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=environment,
            cwd=cwd,
            text=True,
            check=False,
        )
    if check and done.returncode != 0:
        said = log.read_text(errors="replace") if log else (done.stderr or "") + (done.stdout or "")
        where = f"\nThe whole output is in {log}." if log else ""
        raise ClusterError(f"`{shlex.join(command)}` failed (exit code {done.returncode}):\n{tail(said)}{where}")
    return done.stdout or ""


@contextmanager
def _sink(log: Path | None) -> Iterator[tuple[IO[str] | int, IO[str] | int]]:
    if log is None:
        yield subprocess.PIPE, subprocess.PIPE
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as sink:
        yield sink, sink


def tail(text: str, lines: int = _TAIL_LINES) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-lines:])


def wait_until(condition: Callable[[], bool], *, seconds: float, interval: float = 0.1) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """One at a time across processes; `waiting` is called once if somebody else holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_if_changed(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write atomically, and not at all if the content is there already."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.chmod(mode)
    draft.replace(path)


def remove_if_empty(*directories: Path) -> None:
    """In this order. For directories in fixed places that others may use too."""
    for directory in directories:
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
