"""Which of Celery's remote control commands are refused, and why."""

from __future__ import annotations

import pytest
from celery.worker.control import Panel

from greenworker.bootstrap.remote_control import reason

READS = {
    "report",
    "conf",
    "query_task",
    "clock",
    "hello",
    "ping",
    "stats",
    "scheduled",
    "reserved",
    "active",
    "revoked",
    "registered",
    "memsample",
    "memdump",
    "active_queues",
}
REVOKES = {"revoke", "revoke_by_stamped_headers", "terminate"}
COMMANDS = sorted(Panel.meta)


@pytest.mark.parametrize("role", ["eventlet", "prefork"])
def test_read_only_allows_reading_and_revoking_and_nothing_else(role: str) -> None:
    """A command that a later Celery adds and that does not only read is refused, because it is not in this list."""
    allowed = {name for name in COMMANDS if not reason(name, Panel.meta[name].type, "ReadOnly", role)}
    assert allowed == (READS | REVOKES) & set(COMMANDS)


def test_full_leaves_only_the_size_of_a_green_pool_to_the_operator() -> None:
    refused = {name for name in COMMANDS if reason(name, Panel.meta[name].type, "Full", "eventlet")}
    assert refused == {"pool_grow", "pool_shrink", "pool_restart", "autoscale"}
    assert not [name for name in COMMANDS if reason(name, Panel.meta[name].type, "Full", "prefork")]


@pytest.mark.parametrize("name", ["shutdown", "pool_grow", "enable_events"])
def test_a_refusal_says_what_to_change(name: str) -> None:
    assert "GreenWorkerPool" in reason(name, "control", "ReadOnly", "eventlet")
