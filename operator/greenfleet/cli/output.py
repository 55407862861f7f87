"""What commands print. Much of it was written by others (a task's name, a worker's last words), and a terminal obeys
control characters.
"""

from __future__ import annotations

import sys

from greenfleet.redaction import redacted


def legible(text: str) -> str:
    """*text* with everything that a terminal would act on, or that cannot be encoded, replaced."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text)


def say(text: str) -> None:
    """To standard output."""
    print(legible(text), flush=True)


def complain(text: object) -> None:
    """To standard error, without passwords."""
    print(legible(f"greenfleet: {redacted(str(text))}"), file=sys.stderr)
