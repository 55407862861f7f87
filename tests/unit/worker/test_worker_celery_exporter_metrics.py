"""The names of celery-exporter: as its dashboards ask for them, and no more of them than ours."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from greenworker.environment import Environment
from greenworker.monitoring.accounting import EXCEPTION_NAMES, TASK_NAMES, Accounting
from greenworker.monitoring.celery_exporter_metrics import families

EVENTS = ("received", "started", "succeeded", "failed", "rejected", "revoked", "retried")
CELERY_EXPORTER = {
    **{f"celery_task_{event}": {"name", "hostname", "queue_name"} for event in EVENTS},
    "celery_task_failed": {"name", "hostname", "queue_name", "exception"},
    "celery_task_runtime": {"name", "hostname", "queue_name"},
    "celery_worker_up": {"hostname"},
    "celery_worker_tasks_active": {"hostname"},
}
"""Families of a worker and their labels, from src/exporter.py of danihodovic/celery-exporter; ``task_sent`` is the
producers'.
"""
OURS = {"pool", "role", "worker"}


@pytest.fixture
def accounting() -> Accounting:
    made = Accounting(Environment.read({"GREENWORKER_POOL": "shop/feeds", "GREENWORKER_WORKER": "feeds-1"}))
    for family in families(made, "feeds-1", "feeds", lambda: 1, lambda: 3):
        made.registry.add(family)
    return made


def run(accounting: Accounting, name: str, state: str = "SUCCESS") -> None:
    accounting.received.add(1, name)
    accounting.task_started(name, None)
    accounting.task_finished(name, state, 0.3)


def parsed(accounting: Accounting) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(accounting.registry.render().decode())}


def value(accounting: Accounting, name: str, /, **labels: str) -> float:
    return sum(
        sample.value
        for family in parsed(accounting).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_names_and_labels_are_those_of_celery_exporter(accounting: Accounting) -> None:
    run(accounting, "proj.fetch")
    found = parsed(accounting)
    assert {name for name in found if name.startswith("celery_")} == set(CELERY_EXPORTER)
    for name, labels in CELERY_EXPORTER.items():
        for sample in found[name].samples:
            assert set(sample.labels) - OURS - {"le"} == labels, name


def test_numbers_are_ours(accounting: Accounting) -> None:
    for state in ("SUCCESS", "SUCCESS", "RETRY", "REJECTED", "FAILURE"):
        run(accounting, "proj.fetch", state)
    accounting.task_failed("proj.fetch", "TimeoutError")
    accounting.revoked.add(1, "proj.fetch")
    labels = {"name": "proj.fetch", "hostname": "feeds-1", "queue_name": "feeds"}
    for event, expected in {
        "received": 5,
        "started": 5,
        "succeeded": 2,
        "retried": 1,
        "rejected": 1,
        "revoked": 1,
    }.items():
        assert value(accounting, f"celery_task_{event}_total", **labels) == expected, event
    assert value(accounting, "celery_task_failed_total", exception="TimeoutError", **labels) == 1
    assert value(accounting, "celery_task_runtime_count", **labels) == 5
    assert value(accounting, "celery_worker_up", hostname="feeds-1") == 1
    assert value(accounting, "celery_worker_tasks_active") == 3


def test_a_task_that_never_failed_has_a_zero_to_divide_by(accounting: Accounting) -> None:
    run(accounting, "proj.fetch")
    failed = parsed(accounting)["celery_task_failed"].samples
    assert [(sample.labels["name"], sample.labels["exception"], sample.value) for sample in failed] == [
        ("proj.fetch", "", 0)
    ]


def test_too_many_names_fold_into_other(accounting: Accounting) -> None:
    for number in range(3 * TASK_NAMES):
        run(accounting, f"proj.t{number}")
        accounting.task_failed("proj.t0", f"Error{number}")
    for name, family in parsed(accounting).items():
        tasks = {sample.labels.get("name") or sample.labels.get("task") for sample in family.samples}
        assert len(tasks) <= TASK_NAMES + 1, name
    assert value(accounting, "celery_task_started_total", name="other") == 2 * TASK_NAMES
    exceptions = {sample.labels["exception"] for sample in parsed(accounting)["celery_task_failed"].samples}
    assert len(exceptions) <= EXCEPTION_NAMES + 2
    assert value(accounting, "celery_task_failed_total", exception="other") == 3 * TASK_NAMES - EXCEPTION_NAMES
