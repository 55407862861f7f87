"""Who is left out of an answer that was too large for everybody."""

from __future__ import annotations

import pytest

from greenfleet.prometheus.crowded import to_leave_out


@pytest.mark.parametrize(
    ("sizes", "expected", "left_out"),
    [
        pytest.param(
            {"large": 9_000, "small": 1_000, "evil": 8_000},
            {"large": 90, "small": 10, "evil": 2},
            "evil",
            id="many for each",
        ),
        pytest.param(
            {"large": 9_000, "small": 1_000, "evil": 8_000}, {"large": 90, "small": 10}, "evil", id="no pool at all"
        ),
        pytest.param(
            {"a": 100, "b": 9_000, "evil": 12_000}, {"a": 1, "b": 2, "evil": 2}, "evil", id="the largest of several"
        ),
        pytest.param({"large": 9_000, "small": 1_100}, {"large": 90, "small": 10}, "large", id="all are honest"),
        pytest.param({"large": 9_000, "quiet": 10}, {"large": 9, "quiet": 1}, "large", id="alone"),
        pytest.param({"only": 5}, {}, "only", id="one"),
        pytest.param({}, {}, "", id="none"),
    ],
)
def test_who_exports_many_times_what_is_usual_for_each_worker_makes_room_and_not_who_has_many_workers(
    sizes: dict[str, int], expected: dict[str, int], left_out: str
) -> None:
    assert to_leave_out(sizes, expected) == left_out
