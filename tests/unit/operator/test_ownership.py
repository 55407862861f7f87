"""Whose an object is that has the name of one of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from unittest.mock import Mock

import pytest

from greenfleet.controller.controller import Controller
from greenfleet.controller.exporters import ExporterReconciler
from greenfleet.controller.keys import ExporterKey
from greenfleet.controller.ownership import is_exporters_own, is_pools_own
from greenfleet.controller.reconciler import Reconciler
from greenfleet.controller.registry import Record, Registry
from greenfleet.manifests import Child, names
from greenfleet.status.stalled import StalledReason
from tests.unit.operator.objects import Object, body

EXPORTER = names.exporter_name("broker/url")
OURS = {"greenfleet.io/pool": "web", "app.kubernetes.io/managed-by": "greenfleet"}


def owner(kind: str = "GreenWorkerPool", name: str = "web", **more: Any) -> Object:
    group = "greenfleet.io/v1alpha1" if kind == "GreenWorkerPool" else "example.org/v1"
    return {"apiVersion": group, "kind": kind, "name": name, "uid": "some", **more}


def thing(labels: Object | None = None, *owners: Object) -> Object:
    return {"metadata": {"labels": labels, "ownerReferences": list(owners)}}


@pytest.mark.parametrize(
    ("found", "own"),
    [
        pytest.param(thing(OURS, owner(controller=True)), True, id="as we make it"),
        pytest.param(thing(None, owner(controller=True)), True, id="its labels are lost"),
        pytest.param(thing({"app.kubernetes.io/managed-by": "somebody"}, owner()), True, id="a label is another"),
        pytest.param(thing(OURS), True, id="orphaned, or its owner is lost"),
        pytest.param(thing({"greenfleet.io/pool": "web"}), True, id="orphaned, and another label is lost"),
        pytest.param(thing(), False, id="a stranger's"),
        pytest.param(thing({"app.kubernetes.io/managed-by": "Helm"}), False, id="a chart's"),
        pytest.param(thing({"app.kubernetes.io/managed-by": "greenfleet"}), False, id="managed by us, says who?"),
        pytest.param(thing({"greenfleet.io/pool": "other"}, owner(name="other")), False, id="another pool's"),
        pytest.param(thing(OURS, owner("Shop", controller=True)), False, id="labelled, and controlled by another"),
        pytest.param(thing({"greenfleet.io/pool": "other"}), False, id="what another pool left behind"),
    ],
)
def test_a_pool_knows_its_own(found: Object, own: bool) -> None:
    assert is_pools_own(found, "web") is own


@pytest.mark.parametrize(
    ("found", "own"),
    [
        pytest.param(thing(names.exporter_labels(EXPORTER), owner(), owner(name="b")), True, id="as we make it"),
        pytest.param(thing(names.exporter_labels(EXPORTER)), True, id="its owners are lost"),
        pytest.param(thing(None, owner()), True, id="its labels are lost"),
        pytest.param(thing({"app.kubernetes.io/managed-by": "Helm"}), False, id="a chart's"),
        pytest.param(thing(names.exporter_labels(EXPORTER), owner("Shop", controller=True)), False, id="controlled"),
        pytest.param(thing(names.exporter_labels("another")), False, id="another exporter's"),
    ],
)
def test_an_exporter_knows_its_own(found: Object, own: bool) -> None:
    assert is_exporters_own(found, EXPORTER) is own


class Taken:
    """An applier that finds somebody else's object under every name."""

    async def taken(self, children: Sequence[Child], *_: Any) -> tuple[Child, Object]:
        return children[0], thing({"app.kubernetes.io/managed-by": "Helm"})


def test_a_name_that_stays_taken_is_asked_about_ever_more_seldom() -> None:
    known, anything = Registry(), cast("Any", Mock(monitoring=None, image="agent:1", image_pull_secrets=()))
    record = known.put(body("web"))
    pools = Reconciler(anything, known, anything, anything, cast("Any", Taken()), image=anything, monitors=anything)
    exporters = ExporterReconciler(anything, known, anything, cast("Any", Taken()), image=anything, monitors=anything)

    async def run() -> None:
        wanted = [10, 20, 40, 80, 120, 120]
        assert [await pools.reconcile_pool(record) for _ in wanted] == wanted
        assert [await exporters.reconcile(ExporterKey("shop", "broker/url")) for _ in wanted] == wanted

    asyncio.run(run())
    assert record.reconciliation.refused is not None
    assert known.exporter_refused(record.pool) is not None


def test_a_refusal_that_has_ended_is_said_also_where_what_follows_fails() -> None:
    """The next try finds the refusal gone, and would have nothing to say."""
    known, anything, said = Registry(), cast("Any", Mock()), []
    record = known.put(body("web"))
    key = ExporterKey("shop", "broker/url")
    known.exporter(key.broker_key).refused = StalledReason("Refused", "by a webhook")

    class Exporters:
        async def reconcile(self, key: ExporterKey) -> None:
            known.exporter(key.broker_key).refused = None
            raise TimeoutError("a pod's annotation")

    class Status:
        async def sync(self, record: Record) -> None:
            said.append((record.key, known.exporter_refused(record.pool)))

    controller = Controller(
        registry=known, queue=anything, enqueuer=anything, pools=anything, view=anything, reconciler=anything,
        exporters=cast("Any", Exporters()), status=cast("Any", Status()), metrics=anything,
    )  # fmt: skip
    with pytest.raises(TimeoutError):
        asyncio.run(controller._work_on_exporter(key))
    assert said == [(record.key, None)]
