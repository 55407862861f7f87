"""The user's code is imported: whatever goes wrong with that is said in four parts, and an import that never
ends too.
"""

from __future__ import annotations

import sys
import traceback
from time import monotonic
from types import FrameType, TracebackType
from typing import Any

from greenworker import hub, native
from greenworker.misconfigured import MisconfiguredError, exit_misconfigured

IMPORT_TIMEOUT_SECONDS = 270.0
"""An import may be slow on a slow node. At 300 s the liveness probe ends the process, which would say nothing."""
WAY_OUT_OF_A_FACTORY = "where a function makes the app, write `app = make_app()` in a module, and name that"
"""Celery calls no factory, so that none of its commands would understand the same name."""


class Imports:
    """``with`` this the app's modules are imported. Raises `MisconfiguredError` for whatever they raise."""

    def __init__(self, app: str, directory: str, timeout_seconds: float = IMPORT_TIMEOUT_SECONDS) -> None:
        self.app = app
        self.directory = directory
        self._timeout_seconds = timeout_seconds
        self._importing = False
        self._thread: Any = None
        self._watched = False

    def __enter__(self) -> None:
        self._importing = True
        self._thread = hub.current() if "greenlet" in sys.modules else None
        if not self._watched:
            self._watched = True
            native.start_thread(self._watch, ())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._importing = False
        if error is None or isinstance(error, MisconfiguredError):
            return
        native.say("".join(traceback.format_exception(error)))
        raise self.failed(error) from error

    def failed(self, error: BaseException) -> MisconfiguredError:
        """What *error* says of the app."""
        fix = f"check that `celery -A {self.app} report` works in the image's working directory ({self.directory})"
        if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str) and error.args[0].isupper():
            fix = f"if {error.args[0]} is an environment variable, set it in worker.env or worker.envFrom; {fix}"
        place = where(error.__traceback__)
        if isinstance(error, AttributeError) and not place:  # Celery's own: it found the module, and no app there
            fix = f"name the module and its app, as module:app; {WAY_OUT_OF_A_FACTORY}; {fix}"
        what = f"{type(error).__name__}: {error}" + (f" ({place})" if place else "")
        return MisconfiguredError("app", self.app, f"the image's app cannot be imported: {what}", fix)

    def _watch(self) -> None:
        """In a real thread. Time between two imports does not count."""
        spent, looked = 0.0, monotonic()
        while spent < self._timeout_seconds:
            native.sleep(min(1.0, self._timeout_seconds / 10))
            now = monotonic()
            spent += now - looked if self._importing else 0.0
            looked = now
        if not self._importing:
            return
        place = self._halted_at()
        exit_misconfigured(
            MisconfiguredError(
                "app", self.app, f"importing the app has not ended after {spent:.0f} s; it stands at {place}",
                "let modules neither connect nor wait while they are imported; do that in a task or in worker_init",
            )
        )  # fmt: skip

    def _halted_at(self) -> str:
        frame = getattr(self._thread, "gr_frame", None) or sys._current_frames().get(native.main_thread_id)
        while frame is not None and not _is_users(frame):
            frame = frame.f_back
        return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "an unknown place"


def where(trace: TracebackType | None) -> str:
    """File and line of the innermost frame of *trace* that is no library's; empty if there is none."""
    found = ""
    while trace is not None:
        if _is_users(trace.tb_frame):
            found = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _is_users(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return not name.startswith(("<", _STANDARD_LIBRARY, _OURS)) and "/site-packages/" not in name


_STANDARD_LIBRARY = traceback.__file__.rpartition("/")[0] + "/"
_OURS = __file__.rpartition("/")[0] + "/"
