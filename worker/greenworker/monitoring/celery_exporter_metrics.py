"""The same numbers once more, under the names that dashboards of celery-exporter know.

Names and labels are those of github.com/danihodovic/celery-exporter and its Grafana dashboards; what it learns from
task events, which halve a worker's throughput, is counted here anyway. Everything is read from our own families at the
moment of the scrape, so task names are bounded as they are there. ``celery_task_sent_total`` is missing: only producers
know it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from greenworker.monitoring.accounting import Accounting
from greenworker.monitoring.metrics import Family, Gauge, Histogram, Key, escape, histogram_lines, number

Values = Callable[[], Iterable[tuple[Key, float]]]


class Renamed(Family):
    """A counter whose values come from elsewhere, with labels that are the same on every series."""

    kind = "counter"

    def __init__(self, name: str, help_text: str, labels: Iterable[str], constant: str, values: Values) -> None:
        super().__init__(name, help_text, labels)
        self.constant = constant
        self.values = values

    def series(self, common: str) -> Iterator[str]:
        for key, value in self.values():
            yield f"{self.name}{{{self.label_text(f'{common},{self.constant}', key)}}} {number(value)}\n"


class RenamedHistogram(Family):
    """A histogram under another name."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, label: str, constant: str, source: Histogram) -> None:
        super().__init__(name, help_text, [label])
        self.constant = constant
        self.source = source

    def series(self, common: str) -> Iterator[str]:
        for key, distribution in list(self.source.children.items()):
            yield from histogram_lines(self.name, self.label_text(f"{common},{self.constant}", key), distribution)


def families(
    accounting: Accounting, hostname: str, queues: str, up: Callable[[], float], active: Callable[[], float]
) -> list[Family]:
    """Everything that celery-exporter says of one worker. *queues* are its queues, comma separated."""
    host = f'hostname="{escape(hostname)}"'
    constant = f'{host},queue_name="{escape(queues)}"'

    def tasks() -> list[Key]:
        return list(accounting.started.children)

    def ended(state: str) -> Values:
        """Zero as well: a ratio of two counters needs both."""
        return lambda: [(key, value_of(accounting.finished.children.get((*key, state)))) for key in tasks()]

    def failed() -> Iterator[tuple[Key, float]]:
        for key in tasks():
            yield (*key, ""), 0
        for key, cell in list(accounting.failures.children.items()):
            yield key, cell.value

    def revoked() -> Iterator[tuple[Key, float]]:
        children = accounting.revoked.children
        for key in dict.fromkeys((*tasks(), *list(children))):
            yield key, value_of(children.get(key))

    def counter(event: str, help_text: str, values: Values, *more: str) -> Family:
        return Renamed(f"celery_task_{event}_total", help_text, ["name", *more], constant, values)

    return [
        counter("received", "Messages that the worker received.", lambda: plain(accounting.received.children)),
        counter("started", "Tasks started.", lambda: plain(accounting.started.children)),
        counter("succeeded", "Tasks that succeeded.", ended("SUCCESS")),
        counter("failed", "Tasks that failed, by exception.", failed, "exception"),
        counter("retried", "Tasks that will be retried.", ended("RETRY")),
        counter("rejected", "Tasks that rejected their message.", ended("REJECTED")),
        counter("revoked", "Tasks revoked or expired.", revoked),
        RenamedHistogram(
            "celery_task_runtime", "Seconds from start to end, of all tasks.", "name", constant, accounting.runtime
        ),
        Labelled("celery_worker_up", "1 while the worker consumes.", host, up),
        Labelled("celery_worker_tasks_active", "Tasks that run now.", host, active),
    ]


class Labelled(Gauge):
    """A gauge with labels that never change."""

    def __init__(self, name: str, help_text: str, constant: str, function: Callable[[], float]) -> None:
        super().__init__(name, help_text, function)
        self.constant = constant

    def series(self, common: str) -> Iterator[str]:
        return super().series(f"{common},{self.constant}")


def plain(children: Mapping[Key, object]) -> list[tuple[Key, float]]:
    """Every child with its value."""
    return [(key, value_of(cell)) for key, cell in list(children.items())]


def value_of(cell: object) -> float:
    """A counter's value; 0 for one that does not exist yet."""
    return float(getattr(cell, "value", 0))
