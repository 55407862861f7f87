"""What a worker answers to the probe that decides whether it has started, and later whether it is restarted."""

from __future__ import annotations

from time import monotonic
from types import SimpleNamespace

import pytest

from greenworker.runtime import COMING_UP_SECONDS, STARTUP_SECONDS, Runtime

RESTART_AFTER = 60.0


def unhealthy(age: float, *, has_consumed: bool, silent: float | None) -> str:
    """Of a process of so many seconds whose hub last ticked so many seconds ago (None: never)."""
    now = monotonic()
    process = SimpleNamespace(
        born=now - age,
        last_beat=None if silent is None else now - silent,
        _has_consumed=has_consumed,
        environment=SimpleNamespace(restart_after_seconds=RESTART_AFTER),
    )
    return Runtime.unhealthy(process)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("age", "has_consumed", "silent", "said"),
    [
        pytest.param(1, False, None, "coming up", id="imports"),
        pytest.param(5, False, 0.1, "coming up", id="looks for its broker"),
        pytest.param(5, True, 0.1, "", id="consumes"),
        pytest.param(COMING_UP_SECONDS + 1, False, 0.1, "", id="its broker is away, which no restart would mend"),
        pytest.param(COMING_UP_SECONDS + 1, False, None, "", id="a large application imports still"),
        pytest.param(STARTUP_SECONDS + 1, False, None, f"not up after {STARTUP_SECONDS:g} s", id="never comes up"),
        pytest.param(3600, True, RESTART_AFTER + 1, "the hub has not ticked", id="blocked for too long"),
    ],
)
def test_healthy_is_who_has_consumed_and_ticks(age: float, has_consumed: bool, silent: float | None, said: str) -> None:
    found = unhealthy(age, has_consumed=has_consumed, silent=silent)
    assert found.startswith(said) if said else not found
