"""Commands of others, as steps: what happens now, how long it usually takes, how long it took."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

REPOSITORY = Path(__file__).resolve().parent.parent
KUBE = REPOSITORY / "cluster" / "kube"


class StepError(RuntimeError):
    """A step could not be done; the text says which, why, and what to do."""


class Steps:
    """Numbered steps on a console."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._number = 0
        self.seconds: dict[str, float] = {}
        """How long each step took."""

    @contextmanager
    def step(self, title: str, usual: str) -> Iterator[None]:
        """Announce, do, and tell the time. `usual` says how long it takes the first time and later."""
        self._number += 1
        self._console.print(f"[bold][{self._number}/{self._total}][/bold] {title} [dim](usually {usual})[/dim]")
        began = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - began
        self._console.print(f"      [green]✓[/green] {self.seconds[title]:.0f} s", highlight=False)


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, visible: bool = False) -> str:
    """Run a command and return what it printed.

    With `visible` its standard error goes to ours: for commands that report their own progress. Raises StepError with
    the first line and the end of what it said.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            check=False,
            stdout=subprocess.PIPE,
            stderr=None if visible else subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=REPOSITORY,
        )
    except OSError as error:
        raise StepError(f"{words[0]} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        lines = ((done.stderr or "") + done.stdout).strip().splitlines()
        if len(lines) > 15:  # often a reason, and then the end of a log
            lines[1:-14] = ["…"]
        said = "\n".join(lines)
        raise StepError(f"`{' '.join(words)}` ended with status {done.returncode}\n{said}".rstrip())
    return done.stdout.strip()
