"""Patching comes first, or the start is refused.

What imports Celery, kombu or a client library before Eventlet has patched keeps real locks, sockets and sleeps: the
worker then looks well, takes messages, and finishes none. Standard library only: this runs before the patch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from greenworker import hub
from greenworker.misconfigured import MisconfiguredError

MUST_COME_LATER = ("celery", "kombu", "amqp", "redis", "billiard", "vine")
"""They decide while they are imported how they lock, wait and connect."""

AGAIN = "_GREENFLEET_PYTHONPATH"
"""Variable that is set once Python was started again: the PYTHONPATH that it had before."""


def patch_first() -> None:
    """Patch the standard library, with the Eventlet that `check_versions` has found. If something was imported too
    early, start Python once more, with the patch before everything. Raises `MisconfiguredError` if that does not help.
    """
    if hub.is_patched():
        return
    early = imported_too_early(sys.modules)
    if early and AGAIN in os.environ:
        raise too_early(early)
    if early:
        _start_again()
    hub.patch()


def imported_too_early(modules: Iterable[str]) -> list[str]:
    """Which of *modules* had to come after the patch."""
    found = set(modules)
    return [name for name in MUST_COME_LATER if name in found]


def too_early(early: list[str]) -> MisconfiguredError:
    """The error for modules that were imported too *early*."""
    return MisconfiguredError(
        "image", f"{', '.join(early)} imported before the launcher, by {importer(sys.modules)}",
        "Eventlet had not patched the standard library by then: the worker would take messages and finish none",
        "remove what imports it while Python starts (a .pth file, usercustomize, auto-instrumentation), or "
        "instrument in the app itself",
    )  # fmt: skip


def importer(modules: dict[str, ModuleType]) -> str:
    """Who runs code before the program does, as far as Python tells."""
    files = [getattr(modules.get(name), "__file__", None) for name in ("sitecustomize", "usercustomize")]
    return ", ".join(str(file) for file in files if file) or "a .pth file in site-packages"


def _start_again() -> None:
    """The same process id and arguments; nothing has been opened yet."""
    original = os.environ.get("PYTHONPATH", "")
    directory = str(Path(__file__).parent / "early")
    environment = {**os.environ, AGAIN: original, "PYTHONPATH": os.pathsep.join(filter(None, (directory, original)))}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - the same program


def check_app(modules: dict[str, Any]) -> None:
    """Once the app is imported, or could not be: raises `MisconfiguredError` if it has put something else in the
    patch's place.
    """
    monkey = modules.get("gevent.monkey")
    if monkey is not None and getattr(monkey, "saved", None):
        raise MisconfiguredError(
            "app", "gevent.monkey.patch_all()",
            "the app patches the standard library for gevent, and this worker runs on Eventlet: with both, locks "
            "and sockets break and tasks hang",
            "call it where gevent serves (gunicorn's configuration or the WSGI module), not in a module that the "
            "worker imports",
        )  # fmt: skip
    problem = hub.unpatched_part()
    if problem:
        raise MisconfiguredError(
            "app", problem, "the app, or a library that it imports, has replaced what Eventlet had patched: each "
                            "wait would block all tasks",
            "remove what patches the standard library besides Eventlet (another green library, a tracer) from what "
            "the worker imports",
        )  # fmt: skip
