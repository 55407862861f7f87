"""One control plane, one Prometheus and one nursery for all operators of these tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.faults.operator.nursery import Nursery
from tests.faults.operator.stage import Stage
from tests.integration.operator.harness import POOLS, Api, Prometheus, Refused, control_plane, define_pools, eventually

CLUSTER = os.environ.get("GREENFLEET_TESTS_CLUSTER", "greenfleet") + "-faults-tests"


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with control_plane(CLUSTER) as api:
        define_pools(api)
        eventually(lambda: _lists_pools(api), "a new kind of object can be listed", 60)
        prometheus, nursery = Prometheus(tmp_path_factory.mktemp("prometheus")), Nursery()
        made = Stage(api, prometheus, nursery)
        yield made
        made.close()
        nursery.close()
        prometheus.stop()


def _lists_pools(api: Api) -> bool:
    """An API server that has just got a kind answers 429 for a while."""
    try:
        api.items(f"{POOLS}/greenworkerpools")
    except Refused:
        return False
    return True
