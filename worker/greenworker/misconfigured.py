"""A start that cannot succeed, said in four parts: field, value, reason, fix.

The operator shows what is in the termination log in the resource's condition ``Stalled``. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

from greenworker.native import say
from greenworker.redaction import redacted

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

DEFAULT_TERMINATION_LOG = "/dev/termination-log"
"""Where kubelet reads a container's last words, unless GREENWORKER_TERMINATION_LOG names another file."""

LAST_WORDS_CHARACTERS = 600
"""Of last words that are not in four parts: a condition shows no more."""

EXIT_MISCONFIGURED = 78
"""EX_CONFIG of BSD's sysexits.h; docs/contract.md."""

TERMINATION_LOG_LIMIT_BYTES = 4096
"""Kubernetes keeps the first 4096 bytes of a container's termination message."""


class MisconfiguredError(Exception):
    """Something that only the user can repair. ``field`` is a path in the GreenWorkerPool where there is one."""

    def __init__(self, field: str, value: object, reason: str, fix: str) -> None:
        super().__init__(f"{field}={value!r}: {reason}. {fix}")
        self.field = field
        self.value = value
        self.reason = reason
        self.fix = fix

    def as_json(self) -> str:
        """One line of JSON that fits into a termination message, without passwords."""
        value, reason, fix = redacted(str(self.value)), redacted(self.reason), redacted(self.fix)
        while True:
            text = json.dumps({"field": self.field, "value": value[:300], "reason": reason, "fix": fix})
            if len(text.encode()) <= TERMINATION_LOG_LIMIT_BYTES or not reason:
                return text
            reason = reason[: len(reason) * 3 // 4]


def or_exit(check: Callable[Arguments, Result], *args: Arguments.args, **more: Arguments.kwargs) -> Result:
    """For checks that are possible only once Celery runs, where an exception would be Celery's. Returns what *check*
    returns.
    """
    try:
        return check(*args, **more)
    except MisconfiguredError as error:
        exit_misconfigured(error)


def require(module: str, reason: str, fix: str) -> None:
    """Import what the image has to bring. Raises `MisconfiguredError` where it does not."""
    if module not in sys.modules and find_spec(module) is None:
        raise MisconfiguredError("image", f"no module {module} for {sys.executable}", reason, fix)
    try:
        import_module(module)
    except ImportError as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and missing.partition(".")[0] != module.partition(".")[0]:
            fix = f"add {missing.partition('.')[0]} to the image's requirements: {module} needs it"
        raise MisconfiguredError("image", f"module {module} does not import: {error}", reason, fix) from error


def last_words(text: str, termination_log: str) -> None:
    """Leave what went wrong in the termination log, in one line without passwords. The container's log is not shown by
    Kubernetes' API in its place: nobody knows what an application writes there.
    """
    with suppress(OSError):
        Path(termination_log).write_text(" ".join(redacted(text).split())[:LAST_WORDS_CHARACTERS] + "\n")


def exit_misconfigured(error: MisconfiguredError) -> NoReturn:
    """Say what is wrong on stderr and in the termination log that the environment names, then leave with
    `EXIT_MISCONFIGURED`.
    """
    termination_log = os.environ.get("GREENWORKER_TERMINATION_LOG") or DEFAULT_TERMINATION_LOG
    say(f"cannot start: {error}")
    try:
        Path(termination_log).write_text(error.as_json() + "\n")
    except OSError as problem:
        say(f"could not write {termination_log}: {problem}")
    os._exit(EXIT_MISCONFIGURED)
