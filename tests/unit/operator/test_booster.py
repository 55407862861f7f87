"""Which CPU limit a worker gets while it starts, and when it gets its own back."""

from __future__ import annotations

from typing import Any

import pytest

from greenfleet.controller.booster import BOOST_SECONDS, Limits, limits_of, wanted
from greenfleet.manifests.names import Role
from greenfleet.status.times import rfc3339
from tests.unit.operator.objects import Object, pool

NOW = 1_800_000_000.0
TENTH = Limits("100m", "1")


def a_pod(limit: str | None = "100m", *, started: bool | None = None, runs: float | None = 1.0, **more: Any) -> Object:
    """A worker's pod. `started` None: kubelet has not said anything of its container; `runs`: for so many seconds,
    None: not now.
    """
    resources = {"requests": {"cpu": "10m"}, "limits": {} if limit is None else {"cpu": limit}}
    containers = [{"name": "sidecar"}, {"name": "worker", "resources": resources}]
    state = {"waiting": {}} if runs is None else {"running": {"startedAt": rfc3339(NOW - runs)}}
    told = [{"name": "sidecar", "started": True}, {"name": "worker", "started": started, "state": state}]
    statuses = [] if started is None else told
    status = {"phase": "Pending", "qosClass": "Burstable", "containerStatuses": statuses, **more}
    return {"metadata": {}, "spec": {"containers": containers}, "status": status}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        pytest.param(a_pod(), "1", id="just created"),
        pytest.param(a_pod("0.1"), "1", id="the usual limit in other words"),
        pytest.param(a_pod(started=False), "1", id="running, its startup probe fails still"),
        pytest.param(a_pod("1", started=False), None, id="raised already"),
        pytest.param(a_pod(started=True), None, id="started without a boost"),
        pytest.param(a_pod("1", started=True), "100m", id="started: put back"),
        pytest.param(a_pod("1000m", started=True), "100m", id="started: put back, in other words"),
        pytest.param(a_pod("1", started=False, runs=BOOST_SECONDS + 1), "100m", id="takes too long to start"),
        pytest.param(a_pod(started=False, runs=BOOST_SECONDS + 1), None, id="has taken too long to start"),
        pytest.param(a_pod(started=False, runs=None), "1", id="pulls its image, or is about to be restarted"),
        pytest.param(a_pod("300m", started=False), None, id="somebody else has resized it while it starts"),
        pytest.param(a_pod("300m", started=True), None, id="somebody else has resized it"),
        pytest.param(a_pod("1e-1"), None, id="somebody else has resized it, in a notation that pools do not have"),
        pytest.param(a_pod(qosClass="Guaranteed"), None, id="its quality of service could not stay what it is"),
        pytest.param(a_pod("1", started=True, phase="Failed"), None, id="nothing of it runs"),
        pytest.param(a_pod(None), None, id="without a limit"),
    ],
)
def test_the_limit_of_one_worker(pod: Object, expected: str | None) -> None:
    assert wanted(pod, TENTH, NOW, raised=False) == expected


def test_one_that_leaves_is_not_sped_up() -> None:
    leaving = a_pod()
    leaving["metadata"]["deletionTimestamp"] = rfc3339(NOW)
    assert wanted(leaving, TENTH, NOW, raised=False) is None


def test_what_was_raised_is_put_back_when_the_pool_wants_another_boost_by_now() -> None:
    assert wanted(a_pod("1", started=True), Limits("100m", None), NOW, raised=True) == "100m"
    assert wanted(a_pod("1", started=True), Limits("100m", "500m"), NOW, raised=True) == "100m"


@pytest.mark.parametrize(
    ("worker", "expected"),
    [
        ({"resources": {"limits": {"cpu": "100m"}}}, Limits("100m", "1")),
        ({"resources": {"limits": {"cpu": "100m"}}, "startupBoost": {"cpu": "500m"}}, Limits("100m", "500m")),
        ({"resources": {"limits": {"cpu": "100m"}}, "startupBoost": {"cpu": 0}}, Limits("100m", None)),
        ({"resources": {"limits": {"cpu": 2}}}, Limits("2", None)),
        ({"resources": {"limits": {"memory": "64Mi"}}}, None),
        ({}, None),
    ],
)
def test_what_a_pool_asks_for(worker: Object, expected: Limits | None) -> None:
    assert limits_of(pool(worker=worker), Role.EVENTLET) == expected


def test_the_companion_has_its_own_limit_and_the_same_boost() -> None:
    both = pool(worker={"startupBoost": {"cpu": 2}}, prefork={"resources": {"limits": {"cpu": "500m"}}})
    assert limits_of(both, Role.PREFORK) == Limits("500m", "2")
    assert limits_of(both, Role.EVENTLET) is None
