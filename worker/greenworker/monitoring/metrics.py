"""Metrics without locks, written by one hub and read by a real thread.

`prometheus_client` protects every increment with a ``threading.Lock``, which monkey-patching turns into a green one: a
scrape from an operating-system thread that meets it would drive a hub of its own. Here the hub's thread is the only
writer, and the reader takes a snapshot of plain integers, which is exact enough for a counter. That is also why a
scrape answers while the hub is blocked. Text format: Prometheus exposition 0.0.4. Standard library only.
"""

from __future__ import annotations

import os
import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from math import isfinite, isnan
from pathlib import Path
from typing import Generic, TypeVar

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Seconds. From a cache hit to a long crawl; the autoscaler reads sums and counts, people read the buckets."""

LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
"""Seconds by which a beat of the hub was late."""

OTHER = "other"
"""Where label values go once there are too many of them."""

LABEL_LENGTH = 256
"""Characters of a label value. The name of a task comes from a message."""

Key = tuple[str, ...]


def escape(value: str) -> str:
    """A label value as the text format wants it."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def legible(value: str) -> str:
    """A label value that came with a message: no half characters, which UTF-8 does not have, and not longer than people
    read.
    """
    value = value.encode("utf-8", "backslashreplace").decode()
    return value if len(value) <= LABEL_LENGTH else value[: LABEL_LENGTH - 1] + "…"


def number(value: float) -> str:
    """A sample value as the text format wants it."""
    if not isfinite(value):
        return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


class Family:
    """One metric with its label names; `lines` renders every series of it."""

    kind = "untyped"

    def __init__(self, name: str, help_text: str, labels: Iterable[str] = ()) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = tuple(labels)

    def series(self, common: str) -> Iterator[str]:
        """Sample lines; *common* is the rendered labels that every series has."""
        raise NotImplementedError

    def lines(self, common: str) -> Iterator[str]:
        """HELP, TYPE and the samples."""
        yield f"# HELP {self.name} {self.help_text}\n# TYPE {self.name} {self.kind}\n"
        yield from self.series(common)

    def label_text(self, common: str, key: Key) -> str:
        """``name="value",…`` of the common labels and *key*."""
        own = ",".join(f'{name}="{escape(value)}"' for name, value in zip(self.labels, key, strict=True))
        return ",".join(part for part in (common, own) if part)


class Gauge(Family):
    """A value that is asked for when it is scraped. The function must be safe in a foreign thread: read, never wait."""

    kind = "gauge"

    def __init__(self, name: str, help_text: str, function: Callable[[], float]) -> None:
        super().__init__(name, help_text)
        self.function = function

    def series(self, common: str) -> Iterator[str]:
        yield f"{self.name}{{{common}}} {number(self.function())}\n"


class CounterFunction(Gauge):
    """A counter kept elsewhere."""

    kind = "counter"


class Summary(Family):
    """A sum and a count kept elsewhere, without quantiles."""

    kind = "summary"

    def __init__(self, name: str, help_text: str, function: Callable[[], tuple[float, float]]) -> None:
        super().__init__(name, help_text)
        self.function = function

    def series(self, common: str) -> Iterator[str]:
        total, count = self.function()
        yield f"{self.name}_sum{{{common}}} {number(total)}\n{self.name}_count{{{common}}} {number(count)}\n"


class GaugeSet(Family):
    """A gauge with labels, replaced as a whole."""

    kind = "gauge"

    def __init__(self, name: str, help_text: str, labels: Iterable[str]) -> None:
        super().__init__(name, help_text, labels)
        self.values: dict[Key, float] = {}

    def series(self, common: str) -> Iterator[str]:
        for key, value in list(self.values.items()):
            yield f"{self.name}{{{self.label_text(common, key)}}} {number(value)}\n"


ChildT = TypeVar("ChildT")


class Labelled(Family, Generic[ChildT]):
    """Children by label values; the first *limit* distinct values of the first label are kept, all others fold."""

    def __init__(self, name: str, help_text: str, labels: Iterable[str], limit: int) -> None:
        super().__init__(name, help_text, labels)
        self.limit = limit
        self.children: dict[Key, ChildT] = {}
        self.known: set[str] = set()

    def make(self) -> ChildT:
        """A new child."""
        raise NotImplementedError

    def child(self, *key: str) -> ChildT:
        """The child of these label values, made on first use."""
        found = self.children.get(key)
        if found is None:
            key = tuple(map(legible, key))
            if key and key[0] not in self.known and len(self.known) >= self.limit:
                key = (OTHER, *key[1:])
            else:
                self.known.update(key[:1])
            found = self.children.get(key)
            if found is None:
                found = self.children[key] = self.make()
        return found


class Cell:
    """One number."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Counter(Labelled[Cell]):
    """A counter with labels."""

    kind = "counter"

    def make(self) -> Cell:
        return Cell()

    def add(self, amount: float, *key: str) -> None:
        """Add *amount* to the series of these label values."""
        self.child(*key).value += amount

    def series(self, common: str) -> Iterator[str]:
        for key, cell in list(self.children.items()):
            yield f"{self.name}{{{self.label_text(common, key)}}} {number(cell.value)}\n"


class Distribution:
    """One histogram: how many fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count *value*, in the unit of the bounds."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Histogram(Labelled[Distribution]):
    """A histogram with labels."""

    kind = "histogram"

    def __init__(
        self, name: str, help_text: str, labels: Iterable[str], limit: int, bounds: tuple[float, ...] = SECONDS_BUCKETS
    ) -> None:
        super().__init__(name, help_text, labels, limit)
        self.bounds = bounds

    def make(self) -> Distribution:
        return Distribution(self.bounds)

    def series(self, common: str) -> Iterator[str]:
        for key, distribution in list(self.children.items()):
            yield from histogram_lines(self.name, self.label_text(common, key), distribution)


def histogram_lines(name: str, text: str, distribution: Distribution) -> Iterator[str]:
    """The samples of one histogram; *text* is its rendered labels."""
    separator = "," if text else ""
    cumulative = 0
    for bound, count in zip((*map(number, distribution.bounds), "+Inf"), list(distribution.counts), strict=True):
        cumulative += count
        yield f'{name}_bucket{{{text}{separator}le="{bound}"}} {cumulative}\n'
    yield f"{name}_sum{{{text}}} {number(distribution.total)}\n"
    yield f"{name}_count{{{text}}} {cumulative}\n"


class Registry:
    """All families of this process, with the labels that every series has."""

    def __init__(self, **common: str) -> None:
        self.common = ",".join(f'{name}="{escape(value)}"' for name, value in common.items())
        self.families: list[Family] = []

    def add(self, family: Family) -> None:
        """Expose *family*."""
        self.families.append(family)

    def render(self) -> bytes:
        """The whole exposition."""
        return "".join(line for family in self.families for line in family.lines(self.common)).encode()


_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _stat() -> list[str]:
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()


def resident_bytes() -> int:
    """Resident memory of this process (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def process_families() -> list[Family]:
    """``process_*``, with the names and meaning that every Prometheus client gives them."""
    boot = next(
        int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
    )
    started = boot + int(_stat()[19]) / _TICKS
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return [
        CounterFunction("process_cpu_seconds_total", "User and system CPU seconds.", time.process_time),
        Gauge("process_resident_memory_bytes", "Resident memory in bytes.", resident_bytes),
        Gauge("process_virtual_memory_bytes", "Virtual memory in bytes.", lambda: int(_stat()[20])),
        Gauge("process_start_time_seconds", "Unix time of the start.", lambda: started),
        Gauge("process_open_fds", "Open file descriptors.", lambda: len(os.listdir("/proc/self/fd"))),  # noqa: PTH208
        Gauge("process_max_fds", "Limit of open file descriptors.", lambda: limit),
    ]
