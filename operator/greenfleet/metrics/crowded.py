"""Namespaces that are left out of a common question, because their series made the answer too large for everybody. Pure."""

from __future__ import annotations

from collections.abc import Callable

LEFT_OUT_SECONDS = 300.0
"""After so long a namespace is asked about again."""


class Crowded:
    """Which namespaces are left out of which question, and until when."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` says monotonic seconds."""
        self._clock = clock
        self._until: dict[tuple[str, str], dict[str, float]] = {}

    def add(self, server: str, question: str, namespace: str) -> None:
        """Leaves a namespace out from now on."""
        self._until.setdefault((server, question), {})[namespace] = self._clock() + LEFT_OUT_SECONDS

    def of(self, server: str, question: str) -> frozenset[str]:
        """The namespaces to leave out now."""
        left_out = self._until.get((server, question))
        if not left_out:
            return frozenset()
        now = self._clock()
        for namespace in [namespace for namespace, until in left_out.items() if until <= now]:
            del left_out[namespace]
        return frozenset(left_out)
