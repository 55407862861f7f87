"""What all sub-commands read alike: which object, how long, how many. A value that makes no sense is named, never
traced.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

import typer

from greenfleet.api.values import duration_seconds

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]+")


class Output(StrEnum):
    """How an answer is printed."""

    TEXT = "text"
    JSON = "json"


def object_name(text: str) -> str:
    """NAME or NAMESPACE/NAME, as it is."""
    parts = text.split("/")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise typer.BadParameter(
            f"{text!r} is not the name of an object: write NAME (with -n NAMESPACE) or NAMESPACE/NAME, in lower case"
        )
    return text


def secret_key(text: str) -> str:
    """NAME/KEY of a Secret, or its NAME, which means its key `url`."""
    name, slash, key = text.partition("/")
    if not _NAME.fullmatch(name) or (slash and not _KEY.fullmatch(key)):
        raise typer.BadParameter(f"{text!r} is no Secret and key of it: write NAME/KEY, such as broker/url")
    return text


def located(text: str, namespace: str | None) -> tuple[str | None, str]:
    """Namespace (None: none was said) and name of NAME or NAMESPACE/NAME. Raises ValueError where `-n` says another
    one.
    """
    before, slash, name = text.rpartition("/")
    if slash and namespace and before != namespace:
        raise ValueError(f"{text} is in namespace {before}, and -n says {namespace}: leave one of the two out")
    return before or namespace or None, name


def span(text: str | float) -> float:
    """Seconds of `30s`, `1m30s`, or of a plain number."""
    if not isinstance(text, str):
        return text  # a default
    try:
        return duration_seconds(f"{text}s" if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a duration: write a number and a unit (ms, s, m, h), such as 30s or 1m30s"
        ) from None


def port(text: str | int) -> int:
    """A TCP port."""
    return _between(str(text), 1, 65_535)


def decisions(text: str | int) -> int:
    """How many decisions: the operator remembers 50."""
    return _between(str(text), 0, 50)


def _between(text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
        raise typer.BadParameter(f"{text!r} is not between {least} and {most}: write a number between them")
    return int(text)


Pool = Annotated[
    str, typer.Argument(metavar="POOL", parser=object_name, help="The GreenWorkerPool: NAME or NAMESPACE/NAME.")
]
Namespace = Annotated[
    str | None, typer.Option("-n", "--namespace", help="Its namespace; without it, the one of the current context.")
]
OperatorNamespace = Annotated[str, typer.Option(help="Where the operator runs.")]
Format = Annotated[Output, typer.Option("-o", "--output", help="For people, or for programs.")]
Kubeconfig = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The cluster to ask; without it, in a pod the pod's own cluster, elsewhere $KUBECONFIG or ~/.kube/config.",
        show_default=False,
    ),
]
