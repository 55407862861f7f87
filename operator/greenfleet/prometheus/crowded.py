"""Namespaces that are left out of a common question, because their series made the answer too large, or
too late, for everybody. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import median_low

LEFT_OUT_SECONDS = 300.0
"""After so long a namespace is asked about again."""

MANY_TIMES = 4.0
"""So many times the usual size for each worker or queue, and a namespace is the one to leave out."""


USUAL_SERIES = 315
"""In an answer for each worker, at most: 15 (`sources.workers`), and three for each of the hundred names of tasks that
a worker tells apart. Queues need less.
"""

USUAL_CHARACTERS = 650 * USUAL_SERIES
"""The same in characters: 1,000 workers without series for tasks need about 10 MB (`client.MAX_ANSWER_BYTES`)."""


def too_many_for_their_number(sizes: Mapping[str, int], expected: Mapping[str, int], usual: float) -> frozenset[str]:
    """The namespaces to leave out of an answer that did not come in time: those with many times the *usual* size for
    each worker or queue that the operator knows there. `sizes` may lack namespaces, so that they say little about each
    other.
    """
    return frozenset(one for one, size in sizes.items() if size > MANY_TIMES * usual * max(1, expected.get(one, 0)))


def to_leave_out(sizes: Mapping[str, int], expected: Mapping[str, int]) -> str:
    """The namespace to leave out of an answer that was too large; "" if there is none.

    `sizes`: characters of the answer by namespace. `expected`: workers or queues of which the operator knows there. A
    large namespace has many of both, and is not to blame for that: it is the largest of those that export many times
    what is usual for each. Where nobody does, the answer is honestly too large, and only the largest makes room for all
    others.
    """
    if not sizes:
        return ""
    each = {namespace: size / max(1, expected.get(namespace, 0)) for namespace, size in sizes.items()}
    usual = median_low(each.values())
    return max([one for one in sizes if each[one] > MANY_TIMES * usual] or sizes, key=sizes.__getitem__)


class Crowded:
    """Which namespaces are left out of which question, and until when."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` says monotonic seconds."""
        self._clock = clock
        self._until: dict[tuple[str, str], dict[str, float]] = {}

    def add(self, server: str, question: str, namespace: str) -> None:
        """Leaves a namespace out from now on."""
        self._until.setdefault((server, question), {})[namespace] = self._clock() + LEFT_OUT_SECONDS

    def remove(self, server: str, question: str, namespaces: Iterable[str]) -> None:
        """Asks about them again."""
        for namespace in namespaces:
            self._until.get((server, question), {}).pop(namespace, None)

    def of(self, server: str, question: str) -> frozenset[str]:
        """The namespaces to leave out now."""
        left_out = self._until.get((server, question))
        if not left_out:
            return frozenset()
        now = self._clock()
        for namespace in [namespace for namespace, until in left_out.items() if until <= now]:
            del left_out[namespace]
        return frozenset(left_out)
