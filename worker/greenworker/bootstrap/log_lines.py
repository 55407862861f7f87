"""Our own lines, and Celery's on the standard output, in the application's log format where that is JSON: a log shipper
expects nothing else.

Our lines cannot go through `logging`: they come from real threads too, while the hub is blocked, and a handler's lock
is green. So only the formatter of the application's own handler is used, and the line is written by us. No library for
JSON logs: the agent is injected into an image that may have none.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from greenworker import native


def follow_the_application(early: Iterable[str]) -> None:
    """As soon as the worker's logging is set up. *early*: what was to be said before."""
    from celery import signals  # noqa: PLC0415 - not before patching

    def set_up(instance: Any = None, **_: Any) -> None:
        from celery.apps import worker  # noqa: PLC0415

        worker.safe_say = _say_at_once
        formatter = json_formatter([*logging.getLogger().handlers, *logging.getLogger("celery").handlers])
        if formatter is not None:
            native.shape = lambda message: formatter.format(_record(message))
            instance.quiet = True
            worker.safe_say = lambda message, *_: native.say(str(message).strip())
        for message in early:
            native.say(message)

    signals.celeryd_after_setup.connect(set_up, weak=False)


def _say_at_once(message: object, file: Any = sys.__stderr__) -> None:
    """What Celery says in a signal handler: `celery.apps.worker.safe_say`, with the `os.write` from before patching.

    Celery keeps the one that it finds when it is imported, and here that is Eventlet's, which waits until a pipe may be
    written to. The handler may run in the hub, which waits for nobody: the worker would end without a drain.
    """
    if file is not None:
        with suppress(OSError, ValueError):
            native.write(file.fileno(), f"\n{message}\n".encode(errors="replace"))


def json_formatter(handlers: Iterable[logging.Handler]) -> logging.Formatter | None:
    """The first formatter that makes a JSON object of one line, if the application has one."""
    for handler in handlers:
        try:
            line = handler.format(_record("probe"))
            if isinstance(json.loads(line), dict) and "\n" not in line.strip():
                return handler.formatter
        except Exception:  # noqa: S112 - a formatter of somebody else's that wants more of a record than there is
            continue
    return None


def _record(message: str) -> logging.LogRecord:
    record = logging.LogRecord("greenworker", logging.WARNING, __file__, 0, message, None, None)
    record.created = time.time()
    return record
