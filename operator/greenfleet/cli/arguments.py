"""What all sub-commands read alike: which object, how long, how many. A value that makes no sense is named, never traced."""

from __future__ import annotations

import argparse
import re

from greenfleet.api.values import duration_seconds

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def object_name(text: str) -> str:
    """NAME or NAMESPACE/NAME, as it is. Raises argparse's error."""
    parts = text.split("/")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name of an object: write NAME (with -n NAMESPACE) or NAMESPACE/NAME, in lower case"
        )
    return text


def located(text: str, namespace: str | None) -> tuple[str | None, str]:
    """Namespace (None: none was said) and name of NAME or NAMESPACE/NAME. Raises ValueError where `-n` says another one."""
    before, slash, name = text.rpartition("/")
    if slash and namespace and before != namespace:
        raise ValueError(f"{text} is in namespace {before}, and -n says {namespace}: leave one of the two out")
    return before or namespace or None, name


def span(text: str) -> float:
    """Seconds of `30s`, `1m30s`, or of a plain number. Raises argparse's error."""
    try:
        return duration_seconds(f"{text}s" if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a duration: write a number and a unit (ms, s, m, h), such as 30s or 1m30s"
        ) from None


def port(text: str) -> int:
    """A TCP port. Raises argparse's error."""
    return _between(text, 1, 65_535)


def decisions(text: str) -> int:
    """How many decisions: the operator remembers 50. Raises argparse's error."""
    return _between(text, 0, 50)


def _between(text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not between {least} and {most}: write a number between them")
    return int(text)
