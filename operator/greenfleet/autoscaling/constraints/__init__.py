"""What holds a recommendation back, in order. Each constraint is a function: (context, workers so far) → Adjustment or
None.
"""

from __future__ import annotations

from collections.abc import Callable

from ..context import DecisionContext
from ..model import Adjustment
from . import limits, stabilization, work

CONSTRAINTS: tuple[tuple[str, Callable[[DecisionContext, int], Adjustment | None]], ...] = (
    ("full-downstream", work.full_downstream),
    ("", stabilization.scale_out),
    ("backlog", work.backlog),
    ("long-tasks", work.long_tasks),
    ("stabilization", stabilization.scale_in),
    ("", limits.behavior),
    *(("", limit) for limit in limits.USER_LIMITS),
)
"""Each with its name in `PARTS`; the user's own limits have none, for they cannot be switched off."""
