"""A memory limit for processes of this test run, by a cgroup of version 1 or 2: who goes beyond it is killed by the
kernel.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_FOLDERS = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))


class MemoryLimits:
    """One cgroup for each limited process. `available` is False where this user may not make one."""

    def __init__(self) -> None:
        self._made: list[Path] = []
        self._parent, self._file = next(
            ((folder, file) for folder, file in _FOLDERS if _may_limit(folder, file)), (Path(), "")
        )

    @property
    def available(self) -> bool:
        return bool(self._file)

    def limit(self, process: int, limit_bytes: int) -> None:
        """What *process* allocates from now on may be *limit_bytes* together."""
        group = self._parent / f"greenfleet-faults-{os.getpid()}-{process}"
        group.mkdir(exist_ok=True)
        self._made.append(group)
        (group / self._file).write_text(str(limit_bytes))
        (group / "cgroup.procs").write_text(str(process))

    def lift(self) -> None:
        """All of them."""
        for group in self._made:
            with suppress(OSError):  # it is gone, or ends just now
                for process in (group / "cgroup.procs").read_text().split():
                    (self._parent / "cgroup.procs").write_text(process)
                group.rmdir()
        self._made.clear()


def _may_limit(folder: Path, file: str) -> bool:
    group = folder / f"greenfleet-faults-{os.getpid()}-probe"
    try:
        group.mkdir()
        try:
            return (group / file).exists()
        finally:
            group.rmdir()
    except OSError:
        return False
