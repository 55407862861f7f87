"""Whether the result backend takes results. Celery tries to store one again and again, and its task holds its green
thread all the while: a worker that looks well, whose callers wait for ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import monotonic
from typing import Any

SLOW_SECONDS = 10.0
"""A result that is not stored after so long is not only late: Celery has tried several times by then."""


class ResultStores:
    """One per process. Green threads store, and the check of `task_risks` reads."""

    def __init__(self) -> None:
        self.failed = 0
        """Results that were given up."""
        self._began: dict[object, float] = {}

    def watched(self, store: Callable[..., Any]) -> Callable[..., Any]:
        """*store* with its arguments, its value and its errors, and counted."""

        @functools.wraps(store)
        def watched(*args: Any, **kwargs: Any) -> Any:
            call = object()
            self._began[call] = monotonic()
            try:
                return store(*args, **kwargs)
            except Exception:
                self.failed += 1
                raise
            finally:
                del self._began[call]

        return watched

    def slowest_seconds(self) -> float:
        """For how long the oldest result that is on its way has been there."""
        return monotonic() - min(self._began.values()) if self._began else 0.0

    def watch(self) -> None:
        """All backends of Celery's that keep results; one that ignores them has a method of its own."""
        from celery.backends.base import Backend  # noqa: PLC0415 - not before patching

        Backend.store_result = self.watched(Backend.store_result)
