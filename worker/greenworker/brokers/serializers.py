"""Which serializers a worker accepts: what the resource says, JSON alone by default.

A message in pickle is a program that everybody who can write to the broker runs in the worker, so an app that wants it
(or anything else than the resource allows) is refused at the start, instead of losing its messages one by one: Celery
acknowledges what it may not decode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from greenworker.misconfigured import MisconfiguredError

LISTS = ("accept_content", "result_accept_content")
NAMES = ("task_serializer", "result_serializer")

DANGER = {
    "application/x-python-serialize": "pickle lets everybody who can write to the broker run code in the worker",
}


def restrict(app: Any, accepted: Iterable[str]) -> None:
    """Hold *app* to the serializers *accepted* by the resource. Raises `MisconfiguredError` if its configuration wants
    more.
    """
    types = check(wanted(app.conf), accepted)
    app.conf.accept_content = list(types)
    app.conf.result_accept_content = list(types)


def restrict_tasks(app: Any, accepted: Iterable[str]) -> None:
    """The same for the serializers of single tasks, once they are all imported."""
    check(((f"task {name}", task.serializer) for name, task in app.tasks.items() if task.serializer), accepted)


def check(asked: Iterable[tuple[str, str]], accepted: Iterable[str]) -> tuple[str, ...]:
    """The content types that are *accepted*. Raises `MisconfiguredError` for the first one *asked* for beyond them."""
    types = {content_type(name, "worker.acceptContent"): name for name in accepted}
    allowed = ", ".join(types.values())
    for where, name in asked:
        found = content_type(name, where)
        if found in types:
            continue
        reason = DANGER.get(found, "what a worker may not decode is lost")
        raise MisconfiguredError(
            "worker.acceptContent", allowed, f"the app's {where} says {name!r}, and the resource does not accept "
                                             f"it: {reason}",
            f"use one of {allowed} there, or add {name!r} to worker.acceptContent",
        )  # fmt: skip
    return tuple(types)


def wanted(conf: Any) -> Iterator[tuple[str, str]]:
    """Every serializer in the app's configuration: (setting, name)."""
    for setting in LISTS:
        for name in conf.get(setting) or ():
            yield setting, str(name)
    for setting in NAMES:
        if conf.get(setting):
            yield setting, str(conf.get(setting))


def content_type(name: str, setting: str) -> str:
    """kombu's content type of a serializer's *name*; a content type is one already."""
    from kombu.serialization import registry  # noqa: PLC0415 - not before patching

    if "/" in name:
        return name
    found = registry.name_to_type.get(name)
    if found is None:
        raise MisconfiguredError(
            "worker.acceptContent", name, f"{setting} names a serializer that the image's kombu does not know",
            "correct the name, add its package to the image (msgpack, PyYAML), or have the app register it",
        )  # fmt: skip
    return str(found)
