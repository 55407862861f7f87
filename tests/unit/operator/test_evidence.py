"""Routing by evidence: what moves a task to prefork, and what brings it back."""

from __future__ import annotations

from greenfleet.engine.evidence import MOMENT_SECONDS, MOMENTS, WINDOW_SECONDS, caught_again, exempt_tasks, routes


def _caught(*times: float) -> tuple[float, ...]:
    moments: tuple[float, ...] = ()
    for at in times:
        moments = caught_again(moments, at)
    return moments


def test_one_long_block_is_one_moment_and_moves_nothing() -> None:
    moments = _caught(*(100.0 + second for second in range(int(MOMENT_SECONDS))))
    assert len(moments) == 1
    assert routes((), {"proj.slow": moments}, (), 110.0) == ()


def test_a_task_that_is_caught_in_separate_moments_moves() -> None:
    moments = _caught(100.0, 120.0, 140.0)
    assert len(moments) == MOMENTS
    assert routes((), {"proj.slow": moments}, (), 141.0) == ("proj.slow",)


def test_catches_of_long_ago_are_no_evidence() -> None:
    moments = _caught(100.0, 120.0, 120.0 + 2 * WINDOW_SECONDS)
    assert routes((), {"proj.slow": moments}, (), 121.0 + 2 * WINDOW_SECONDS) == ()


def test_a_route_stays_when_the_task_blocks_no_longer() -> None:
    assert routes(("proj.slow",), {}, (), 1e9) == ("proj.slow",)


def test_a_human_brings_a_task_back_and_evidence_does_not_move_it_again() -> None:
    exempt = exempt_tasks({"greenfleet.io/keep-on-eventlet": "proj.slow, proj.other"})
    assert routes(("proj.slow",), {"proj.slow": _caught(100.0, 120.0, 140.0)}, exempt, 141.0) == ()


def test_a_block_without_a_task_moves_nothing() -> None:
    moments = _caught(100.0, 120.0, 140.0)
    assert routes((), {"unknown": moments, "other": moments, "": moments}, (), 141.0) == ()
