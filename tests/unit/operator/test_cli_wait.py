"""`greenfleet wait` knows when an operator leads and when a pool is Ready, and says what it waits for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from greenfleet.cli.wait import found, is_held, unready

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)


def _lease(**spec: Any) -> dict[str, Any]:
    return {
        "spec": {"holderIdentity": "a", "renewTime": "2026-01-01T12:00:20.000000Z", "leaseDurationSeconds": 15, **spec}
    }


@pytest.mark.parametrize(
    ("lease", "held"),
    [
        (_lease(), True),
        (_lease(renewTime="2026-01-01T12:00:10.000000Z"), False),
        (_lease(holderIdentity=""), False),
        (_lease(renewTime=None), False),
        ({}, False),
    ],
    ids=["renewed", "run out", "given back", "never renewed", "empty"],
)
def test_a_lease_is_held_while_somebody_renews_it(lease: dict[str, Any], held: bool) -> None:
    assert is_held(lease, NOW) is held


def _pool(observed: int = 2, **conditions: tuple[str, str, str]) -> dict[str, Any]:
    listed = [
        {"type": kind, "status": status, "reason": reason, "message": message}
        for kind, (status, reason, message) in conditions.items()
    ]
    metadata = {"namespace": "shop", "name": "feeds", "generation": 2}
    return {"metadata": metadata, "status": {"observedGeneration": observed, "conditions": listed}}


READY = ("True", "Ready", "all is there")


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        (_pool(Ready=READY), ""),
        (_pool(observed=1, Ready=READY), "has not looked at shop/feeds yet"),
        (_pool(), "has not looked at shop/feeds yet"),
        (_pool(Ready=("False", "WorkersMissing", "1 of 2")), "shop/feeds is not Ready (WorkersMissing): 1 of 2"),
        (
            _pool(Ready=("False", "Stalled", "see Stalled"), Stalled=("True", "NoSecret", "broker is missing")),
            "shop/feeds is not Ready (NoSecret): broker is missing",
        ),
    ],
    ids=["ready", "old generation", "new", "not ready", "stalled"],
)
def test_a_pool_that_is_not_ready_is_named_with_its_reason(pool: dict[str, Any], said: str) -> None:
    sentence = unready(pool)
    assert sentence.endswith(said)
    assert bool(sentence) is bool(said)


@pytest.mark.parametrize(
    ("pools", "namespaces", "said"),
    [
        (0, ["nowhere"], "there is no pool in nowhere"),
        (1, ["shop"], "the one pool in shop"),
        (3, ["shop", "mail"], "all 3 pools in shop and mail"),
        (0, [], "there is no pool"),
    ],
)
def test_who_waited_for_no_pool_is_told(pools: int, namespaces: list[str], said: str) -> None:
    assert found(pools, namespaces) == said
