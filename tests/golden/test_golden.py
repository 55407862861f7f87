"""Full manifests of a few pools, so that a reviewer sees what a change does to them.

After a change that is meant: `pytest tests/golden --update-golden`, then read the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from greenfleet.api import GreenWorkerPool
from greenfleet.manifests import Monitoring, children_of_pool, exporter_children
from greenfleet.manifests.config import start_threads
from tests.unit.operator.objects import pool_of_yaml

HERE = Path(__file__).parent
IMAGE = "greenfleet/worker:0.0.0"

POOLS = sorted(path.stem.removesuffix(".pools") for path in HERE.glob("*.pools.yaml"))


class _NoAliases(yaml.SafeDumper):
    """Writes what is shared between manifests in each of them."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def pools_of(name: str) -> list[GreenWorkerPool]:
    documents = (HERE / f"{name}.pools.yaml").read_text(encoding="utf-8").split("\n---\n")
    return [pool_of_yaml(document) for document in documents]


def rendered(pools: list[GreenWorkerPool], monitoring: Monitoring | None) -> str:
    """Everything that the operator makes of the pools, in the order in which it applies it."""
    manifests = [
        child.manifest
        for pool in pools
        for child in children_of_pool(
            pool,
            IMAGE,
            "IfNotPresent",
            ("proj.resize",) if pool.spec.prefork else (),
            monitoring,
            agent_pull_secrets=["registry"],
        )
    ]
    manifests += [start_threads(pool, pool.spec.green_threads.first) for pool in pools]
    manifests += [child.manifest for child in exporter_children(pools, IMAGE, "IfNotPresent", ["registry"], monitoring)]
    return yaml.dump_all(manifests, Dumper=_NoAliases, sort_keys=False, width=120, allow_unicode=True)


@pytest.mark.parametrize("name", POOLS)
def test_the_manifests_are_the_ones_that_were_reviewed(name: str, request: pytest.FixtureRequest) -> None:
    golden = HERE / f"{name}.manifests.yaml"
    found = rendered(pools_of(name), Monitoring("5s", {"release": "prometheus"}) if name == "everything" else None)
    if request.config.getoption("--update-golden"):
        golden.write_text(found, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == found, "if this is meant: pytest tests/golden --update-golden"


def test_there_are_pools_and_no_manifests_without_a_pool() -> None:
    assert len(POOLS) >= 6
    assert sorted(path.stem.removesuffix(".manifests") for path in HERE.glob("*.manifests.yaml")) == POOLS
