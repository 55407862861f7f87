"""Reads back what the result backend has of the tasks, as their producer would."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic, sleep
from typing import Any

from celery import Celery

from tests.faults.history import Reading

AT_ONCE = 500
"""Results that are asked for in one command."""


def read_back(backend: str, task_ids: Mapping[str, str], deadline: float) -> list[Reading]:
    """One for each result that is there by *deadline* (monotonic seconds). *backend*: its URL. *task_ids*: Celery's, by
    the identity of the task.
    """
    found: dict[str, Reading] = {}
    while True:
        missing = {identity: name for identity, name in task_ids.items() if identity not in found}
        metas = _ready(backend, list(missing.values()))
        for identity, name in missing.items():
            if name in metas:
                found[identity] = Reading(identity, str(metas[name]["status"]), str(metas[name]["result"]))
        if len(found) == len(task_ids) or monotonic() >= deadline:
            return list(found.values())
        sleep(1.0)


def _ready(backend: str, task_ids: list[str]) -> dict[str, Any]:
    """Celery's id → what is stored of the task, of those that have ended."""
    app = Celery("results", backend=backend, set_as_current=False)  # new each time: it remembers what it has read
    found: dict[str, Any] = {}
    for first in range(0, len(task_ids), AT_ONCE):
        found.update(app.backend.get_many(task_ids[first : first + AT_ONCE], max_iterations=1, interval=0.0))
    return found
