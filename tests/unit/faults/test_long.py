"""The long form of the fault runs proves something, or it fails."""

from __future__ import annotations

import pytest

from tests.faults.long import status


@pytest.mark.parametrize(
    ("total", "broken", "expected"),
    [
        ({"tasks": 100, "disruptions": 9}, [], 0),
        ({"tasks": 100, "disruptions": 9}, [7], 1),
        ({}, [], 1),
        ({"tasks": 0, "disruptions": 9}, [], 1),
        ({"tasks": 100, "disruptions": 0}, [], 1),
    ],
)
def test_a_series_of_runs_without_tasks_or_faults_proves_nothing(
    total: dict[str, int], broken: list[int], expected: int
) -> None:
    assert status(total, broken) == expected
