"""What holds a recommendation back, in order. Each constraint is a function: (context, workers) → Adjustment or
None.
"""

from __future__ import annotations

from ..context import Constraint
from . import lasting, limits


def _of_user(limit: limits.UserLimit) -> Constraint:
    return lambda context, recommended: limit(context.spec, context.sample, context.now, recommended)


CONSTRAINTS: tuple[tuple[str, Constraint], ...] = (
    ("full-downstream", lasting.full_downstream),
    ("", lasting.lasting_need),
    ("backlog", lasting.backlog),
    ("long-tasks", lasting.long_tasks),
    ("stabilization", lasting.recent_need),
    ("", limits.behavior),
    *(("", _of_user(limit)) for limit in limits.USER_LIMITS),
)
"""Each with its name in `PARTS`; the user's own limits have none, for they cannot be switched off."""
