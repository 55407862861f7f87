"""Progress lines: what happens now, how long it usually takes, how long it took.

They go to standard error, so that `kubeconfig` and `env` can be used in `$(...)`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_ANNOUNCE_AFTER_SECONDS = 10


class Report:
    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Shown even with --quiet."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

    @contextmanager
    def step(self, text: str, *, usual_seconds: float = 0) -> Iterator[None]:
        """Announce a long step before it starts; tell how long it took when it is over."""
        if usual_seconds >= _ANNOUNCE_AFTER_SECONDS:
            self.say(f"  … {text} (usually about {duration(usual_seconds)})")
        started = time.monotonic()
        yield
        self.say(f"  ✓ {text} ({duration(time.monotonic() - started)})")


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
