"""Rate limits of what waits for a thread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenworker.pool.rate_limits import StartRate


@given(st.floats(0.1, 100), st.lists(st.floats(0, 1), max_size=200))
def test_no_stretch_of_time_sees_more_starts_than_the_rate_and_one_allow(per_second: float, gaps: list[float]) -> None:
    rate, now, starts = StartRate(per_second), 0.0, []
    for gap in gaps:
        now += gap
        if rate.take(now):
            starts.append(now)
    for first, begin in enumerate(starts):
        for more, end in enumerate(starts[first:]):
            assert more <= (end - begin) * per_second + 0.5 + 1e-6


@given(st.floats(0.1, 100), st.floats(0, 1000))
def test_one_may_start_after_the_time_that_is_said(per_second: float, now: float) -> None:
    rate = StartRate(per_second)
    assert rate.take(now)
    wait = rate.seconds(now)
    assert 0 < wait <= 1 / per_second
    assert rate.take(now + wait + 1e-9 * (1 + now))


def test_a_timer_that_comes_late_once_costs_no_start() -> None:
    """Due each 0.2 s; the first came 50 ms late, the others in time."""
    rate = StartRate(5)
    assert all(rate.take(now) for now in (0.05, 0.2, 0.4, 0.6))


@pytest.mark.parametrize("idle", [1.0, 1000.0])
def test_idle_time_saves_up_no_starts(idle: float) -> None:
    rate = StartRate(5)
    rate.take(0.0)
    assert rate.take(idle)
    assert not rate.take(idle + 0.01)
