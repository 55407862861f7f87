"""What holds a recommendation back, in order. Each constraint is a function: (context, workers) → Adjustment or None."""

from __future__ import annotations

from ..context import Constraint
from . import limits, scaling_in, scaling_out


def _of_user(limit: limits.UserLimit) -> Constraint:
    return lambda context, recommended: limit(context.spec, context.sample, context.now, recommended)


CONSTRAINTS: tuple[tuple[str, Constraint], ...] = (
    ("full-downstream", scaling_out.full_downstream),
    ("", scaling_out.lasting_need),
    ("first-window", scaling_in.first_window),
    ("backlog", scaling_in.backlog),
    ("young-burst", scaling_in.young_burst),
    ("long-tasks", scaling_in.long_tasks),
    ("stabilization", scaling_in.recent_need),
    ("", limits.behavior),
    *(("", _of_user(limit)) for limit in limits.USER_LIMITS),
)
"""Each with its name in `PARTS`; the user's own limits have none, for they cannot be switched off."""
