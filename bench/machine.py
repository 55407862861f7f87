"""What the kernel says of a group of processes, and which processors they may use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Cores:
    """With two processors or more, workers get one and everything else another; with one, all share it."""

    workers: frozenset[int]
    rest: frozenset[int]
    every: frozenset[int]

    @classmethod
    def split(cls) -> Cores:
        """The first two of those that this process may use."""
        found = sorted(os.sched_getaffinity(0))
        return cls(frozenset(found[:1]), frozenset(found[1:2] or found), frozenset(found))


def session(leader: int) -> list[int]:
    """Processes of the session that *leader* leads: a worker started with ``start_new_session``, and its children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = stat(int(entry.name))
            if fields and int(fields[3]) == leader:
                found.append(int(entry.name))
    return found


def stat(pid: int) -> list[str]:
    """Fields of proc(5) stat from the third on; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of *pids* so far."""
    return sum((int(fields[11]) + int(fields[12])) / TICKS for pid in pids if (fields := stat(pid)))


def resident_mb(pids: list[int]) -> float:
    """Sum of the resident memory, in MB; pages that processes share count in each."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * PAGE_BYTES / 1e6


def proportional_mb(pids: list[int]) -> float:
    """Sum of the proportional memory (PSS), in MB; shared pages count once in all."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total * 1024 / 1e6
