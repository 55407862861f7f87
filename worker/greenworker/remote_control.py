"""What Celery's remote control may do: everybody who can write to the broker can use it.

Reading stays, and revoking, which applications do in their normal course (``AsyncResult.revoke``). What changes a worker is
refused with a reason, unless the resource says ``Full``. The size of the green pool is the operator's in either case. Commands that the
application registers itself are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker.control import Panel

READ_ONLY = frozenset({"revoke", "revoke_by_stamped_headers", "terminate"})
"""Allowed besides Celery's ``inspect`` commands."""

WRITES_FILES = frozenset({"objgraph"})
"""An ``inspect`` command that does more than read."""

OPERATORS = frozenset({"pool_grow", "pool_shrink", "pool_restart", "autoscale"})
"""What would be undone within a second, or is not possible with green threads."""

RESTRICTED = (
    "refused: spec.worker.remoteControl of this GreenWorkerPool is ReadOnly, because everybody who can write to the broker could "
    "do this; set it to Full to allow it"
)
SIZE = (
    "refused: the operator sets the number of green threads and restarts workers; change greenThreads.min, max and start of the "
    "GreenWorkerPool instead"
)
EVENTS = "; for task events add -E to spec.worker.extraArgs"


def restrict(allowed: str, role: str) -> None:
    """After the app and its commands are loaded, before the consumer listens. *allowed*: ReadOnly or Full; Disabled is not heard."""
    for name, command in list(Panel.data.items()):
        if not str(command.__module__).startswith("celery."):
            continue
        why = reason(name, Panel.meta[command.__name__].type, allowed, role)
        if why:
            Panel.data[name] = _refuse(name, why)


def reason(name: str, kind: str, allowed: str, role: str) -> str:
    """Why Celery's command *name* of this *kind* (inspect or control) is refused; empty if it is not."""
    if name in OPERATORS and role == "eventlet":
        return SIZE
    if allowed == "Full" or name in READ_ONLY or (kind == "inspect" and name not in WRITES_FILES):
        return ""
    return RESTRICTED + (EVENTS if name in {"enable_events", "disable_events"} else "")


def _refuse(name: str, why: str) -> Callable[..., dict[str, str]]:
    def refused(state: Any, **_: Any) -> dict[str, str]:
        return {"error": why}

    refused.__name__ = name
    return refused
