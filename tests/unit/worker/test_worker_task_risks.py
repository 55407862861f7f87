"""What endangers tasks is said once, counted as long as it holds, and not invented."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from greenworker.brokers.factory import kind_of
from greenworker.environment import Environment
from greenworker.misconfigured import MisconfiguredError
from greenworker.monitoring import result_stores, task_risks
from greenworker.monitoring.metrics import Registry
from greenworker.monitoring.task_risks import AckTimeout, TaskRisks, acknowledge, check_tasks


def app(url: str, **options: Any) -> Celery:
    made = Celery("task_risks", broker=url, set_as_current=False)
    made.conf.broker_transport_options = options
    return made


def ack_timeout(url: str, **options: Any) -> AckTimeout:
    made = app(url, **options)
    return kind_of(made).ack_timeout(made, Environment.read({"GREENWORKER_POOL": "shop/feeds"}))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(task_risks, "say", lines.append)
    return lines


def on_redis(seconds: float = 60) -> TaskRisks:
    made = TaskRisks(Registry())
    made.ack_timeout = ack_timeout("redis://h/0", visibility_timeout=seconds)
    return made


def shown(found: TaskRisks) -> set[tuple[str, str]]:
    return {(key[0], key[1]) for key in found._gauge.values}


def running(name: str, seconds: float, *, late: bool = True) -> Any:
    return SimpleNamespace(name=name, time_start=time.time() - seconds, task=SimpleNamespace(acks_late=late))


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("redis://h/0", {}, ("visibility_timeout", 3600)),
        ("sentinel://h:26379", {"visibility_timeout": 99}, ("visibility_timeout", 99)),
        ("rediss://h/0", {"visibility_timeout": 99}, ("visibility_timeout", 99)),
        ("amqp://h//", {}, ("consumer_timeout", 1800)),
        ("pyamqp://h//", {}, ("consumer_timeout", 1800)),
    ],
)
def test_knows_how_long_the_broker_waits(url: str, options: dict[str, Any], expected: tuple[str, float]) -> None:
    found = ack_timeout(url, **options)
    assert (found.reason, found.seconds) == expected


def test_a_broker_that_the_worker_does_not_know_is_refused_in_four_parts() -> None:
    with pytest.raises(MisconfiguredError) as caught:
        kind_of(app("memory://"))
    assert caught.value.field == "broker.urlFrom"
    assert caught.value.value == "memory://…"
    assert "redis://" in caught.value.fix


def test_a_task_that_runs_longer_than_the_broker_waits_is_named_once(said: list[str]) -> None:
    found = on_redis()
    found.check([running("proj.quick", 59), running("proj.early", 900, late=False)], 0, 10)
    assert not shown(found)
    assert not said
    for _ in range(3):
        found.check([running("proj.slow", 61), running("proj.slower", 100)], 0, 10)
    assert shown(found) == {("visibility_timeout", "proj.slow"), ("visibility_timeout", "proj.slower")}
    assert len(said) == 1
    assert "proj.slow" in said[0]
    assert "60 s" in said[0]
    assert "raise visibility_timeout" in said[0]


@pytest.mark.parametrize("offset", [0, 5])
def test_an_eta_beyond_it_is_a_hazard(said: list[str], offset: int) -> None:
    found = on_redis()
    zone = timezone.utc if not offset else datetime.now().astimezone().tzinfo
    found.scheduled("proj.later", (datetime.now(zone) + timedelta(seconds=50)).isoformat())
    found.scheduled("proj.later", "at noon")
    assert not said
    found.scheduled("proj.later", (datetime.now(zone) + timedelta(seconds=90)).isoformat())
    assert shown(found) == {("visibility_timeout", "proj.later")}


def test_a_time_limit_beyond_it_is_a_hazard(said: list[str]) -> None:
    found, tasks = on_redis(), app("redis://h/0")
    tasks.conf.task_acks_late = True
    for name, limit in (("proj.short", 30), ("proj.long", 600)):
        tasks.task(name=name, time_limit=limit)(nothing)
    tasks.task(name="proj.early", time_limit=600, acks_late=False)(nothing)
    check_tasks(found, tasks, None)
    assert shown(found) == {("visibility_timeout", "proj.long")}


def nothing() -> None:
    """A task."""


def test_hoarding_is_more_than_two_messages_a_thread_and_not_a_moment(said: list[str]) -> None:
    found = on_redis()
    for reserved in (21, 5, 21, 20, 19):
        found.check([], reserved, 10)
    assert not said
    found.check([], 30, 10)
    found.check([], 30, 10)
    assert shown(found) == {("prefetch", "")}
    assert "30 messages" in said[0]
    assert "10 threads" in said[0]


def test_acknowledgements_that_fail_are_counted(said: list[str]) -> None:
    class Message:
        def __init__(self, taken: bool) -> None:
            self.acknowledged = taken

        def ack_log_error(self) -> None:
            """As kombu's: logs and goes on."""

    found = on_redis()
    for taken in (True, False, False):
        acknowledge(found, Message(taken).ack_log_error)
    found.store_failures = lambda: 1
    assert found.failures() == 3
    found.check([], 0, 10)
    assert shown(found) == {("acks", "")}
    assert len(said) == 1


def test_a_hazard_is_forgotten_and_names_are_bounded(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_redis()
    for number in range(50):
        found.found("visibility_timeout", f"proj.t{number}", "once")
    assert len(shown(found)) == task_risks.TASKS_NAMED + 1
    assert ("visibility_timeout", "other") in shown(found)
    monkeypatch.setattr(task_risks, "MEMORY_SECONDS", -1.0)
    found.check([], 0, 10)
    assert not shown(found)


def test_a_worker_whose_threads_are_all_busy_and_finish_nothing_says_so(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(task_risks, "monotonic", lambda: now[0])
    found = on_redis(3600)
    stuck = [running("proj.stuck", 10), running("proj.stuck", 10)]
    for finished, busy, seconds in ((5, stuck, 400), (6, stuck, 400), (6, stuck[:1], 200), (6, stuck, 99)):
        found.check(busy, 0, 2, finished)
        now[0] += seconds
        assert shown(found) == set(), "something ended, or a thread is free, or it is early"
    now[0] += 2
    found.check(stuck, 0, 2, 6)
    assert ("no_progress", "") in shown(found)
    assert "proj.stuck" in said[0]
    found.check(stuck, 0, 2, 7)
    now[0] += task_risks.MEMORY_SECONDS + 1
    found.check(stuck, 0, 2, 8)
    assert shown(found) == set(), "it goes on"


def test_results_that_wait_for_their_backend_or_were_given_up_are_said_and_others_are_not(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(result_stores, "monotonic", lambda: now[0])
    found = on_redis(3600)

    def store(state: str, seconds: float = 0.0) -> str:
        now[0] += seconds
        found.check([], 0, 10)
        if state == "lost":
            raise OSError(state)
        return state

    watched = found.result_stores.watched(store)
    assert watched("kept", seconds=9.0) == "kept"
    assert shown(found) == set()
    with pytest.raises(OSError, match="lost"):
        watched("lost")
    found.check([], 0, 10)
    assert ("results", "") in shown(found)
    assert "1 were given up" in said[0]
    monkeypatch.setattr(task_risks, "MEMORY_SECONDS", -1.0)
    found.check([], 0, 10)
    assert shown(found) == set(), "what was said is not said again"
    monkeypatch.undo()
    monkeypatch.setattr(result_stores, "monotonic", lambda: now[0])
    watched("slow", seconds=11.0)
    assert ("results", "") in shown(found)


def test_a_hub_that_waits_for_a_cpu_most_of_the_time_says_so_and_a_slow_start_does_not(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(task_risks, "monotonic", lambda: now[0])
    found = on_redis(3600)
    window, waited = task_risks.CPU_WINDOW_SECONDS, 100.0  # before the first look: a start
    for share, starved in ((0.4, False), (0.6, True)):
        for _ in range(16):
            found.check([], 0, 2, cpu_waited=waited)
            now[0] += window / 7
            waited += share * window / 7
        assert (("cpu", "") in shown(found)) is starved
    assert "limits.cpu" in said[0]


def test_a_task_whose_name_came_with_a_message_is_shown_as_text_of_a_sane_length() -> None:
    registry = Registry()
    for name in ("feeds.\ud83d", "x" * 100_000):
        TaskRisks(registry).found("eta", name, "said once")
    assert len(registry.render()) < 5_000
