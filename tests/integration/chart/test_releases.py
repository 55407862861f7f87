"""What helm does with a release, on a real API server: upgrade, uninstall, install again, and the notes that it
prints.
"""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.integration.chart.conftest import CHART, CRD, Release
from tests.integration.operator.harness import Object, Operator, Refused, eventually, kubectl

NOWHERE = "http://127.0.0.1:9"
"""A Prometheus that does not answer: these pools hold, and that is all they need to do here."""


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The chart as it was one version ago: its CRD does not know `spec.scaling.cooldown` yet."""
    older = tmp_path / "previous"
    shutil.copytree(CHART, older)
    chart = yaml.safe_load((older / "Chart.yaml").read_text(encoding="utf-8"))
    (older / "Chart.yaml").write_text(yaml.safe_dump({**chart, "version": "0.0.1", "appVersion": "0.0.1"}))
    file = older / "files" / "greenworkerpools.yaml"
    crd = yaml.safe_load(file.read_text(encoding="utf-8"))
    scaling = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["scaling"]
    del scaling["properties"]["cooldown"]
    scaling["default"].pop("cooldown", None)
    file.write_text(yaml.safe_dump(crd, sort_keys=False), encoding="utf-8")
    return older


def _uid(found: Object | None) -> str:
    assert found is not None
    return str(found["metadata"]["uid"])


def test_an_upgrade_from_the_previous_version_takes_a_new_field_and_keeps_the_pools(
    release: Release, previous: Path
) -> None:
    release.install(previous)
    release.crd_is_served()
    pools = release.namespace
    old = pools.apply_pool("feeds", queues=["feeds"])
    with pytest.raises(Refused, match="cooldown"):
        pools.apply_pool("feeds", queues=["feeds"], scaling={"cooldown": "7m"})

    release.install()
    eventually(lambda: _takes_cooldown(release), "the new field is taken")
    assert pools.pool("feeds")["spec"]["scaling"]["cooldown"] == "7m"
    assert _uid(pools.pool("feeds")) == _uid(old)


def _takes_cooldown(release: Release) -> bool:
    try:
        release.namespace.apply_pool("feeds", queues=["feeds"], scaling={"cooldown": "7m"})
    except Refused:
        return False
    return True


def test_an_uninstall_leaves_pools_and_workers_and_a_new_installation_adopts_them(
    release: Release, tmp_path: Path
) -> None:
    release.install()
    release.crd_is_served()
    fleet = release.namespace
    fleet.secret("broker", url="redis://127.0.0.1:9/0")
    operator = Operator(tmp_path, fleet, NOWHERE).start()
    try:
        fleet.apply_pool("feeds", replicas={"min": 2, "max": 4})
        eventually(lambda: len(fleet.pods("feeds")) == 2, "two workers")
        crd, pool = _uid(release.api.find(CRD)), _uid(fleet.pool("feeds"))
        workers = {_uid(pod) for pod in fleet.pods("feeds")}
        deployment = _uid(fleet.deployment("feeds"))
    finally:
        operator.stop()

    release.uninstall()
    assert fleet.find("deployments", "greenfleet") is None
    assert _uid(release.api.find(CRD)) == crd
    assert _uid(fleet.pool("feeds")) == pool
    assert {_uid(pod) for pod in fleet.pods("feeds")} == workers

    release.install()
    assert _uid(release.api.find(CRD)) == crd
    operator = Operator(tmp_path, fleet, NOWHERE, "operator-2").start()
    try:
        fleet.api.merge(fleet.path("greenworkerpools", "feeds"), {"spec": {"replicas": {"max": 5}}})
        generation = fleet.pool("feeds")["metadata"]["generation"]
        eventually(
            lambda: (fleet.pool("feeds").get("status") or {}).get("observedGeneration") == generation,
            "the new operator looks after the pool",
        )
        assert _uid(fleet.deployment("feeds")) == deployment
        assert {_uid(pod) for pod in fleet.pods("feeds")} == workers
    finally:
        operator.stop()


def test_a_release_of_another_name_takes_the_crd_over_when_it_is_told_to(release: Release) -> None:
    release.install()
    crd = _uid(release.api.find(CRD))
    release.uninstall()
    release.name = "another"
    refused = release.run("install", release.name, str(CHART), check=False)
    assert "greenworkerpools.greenfleet.io" in refused
    release.install(CHART, "--take-ownership")
    found = release.api.find(CRD)
    assert _uid(found) == crd
    assert found is not None
    assert found["metadata"]["annotations"]["meta.helm.sh/release-name"] == "another"


def test_switching_the_crd_off_in_an_upgrade_leaves_it(release: Release) -> None:
    release.install()
    crd = _uid(release.api.find(CRD))
    release.install(crds={"enabled": False})
    assert _uid(release.api.find(CRD)) == crd


def test_what_was_not_to_be_kept_goes_with_the_release(release: Release) -> None:
    release.install(crds={"keep": False})
    assert release.api.find(CRD) is not None
    release.uninstall()
    eventually(lambda: release.api.find(CRD) is None, "the CRD goes", 30)


def test_the_notes_hold_a_resource_that_can_be_pasted(release: Release) -> None:
    said = release.install()
    release.crd_is_served()
    (pasted,) = re.findall(r"kubectl apply -f - <<'EOF'\n(.*?)\nEOF\n", said, re.DOTALL)
    done = kubectl(release.api, "apply", "--namespace", release.namespace.name, "-f", "-", stdin=pasted)
    assert done.returncode == 0, done.stderr
    assert "created" in done.stdout
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_helm_test_tells_how_its_pod_ended_and_leaves_nothing_after_a_success(release: Release, phase: str) -> None:
    """The pod's end is written here: there is no kubelet. What it does is tested with the operator's rights, and end to
    end.
    """
    release.install(crds={"enabled": False})
    fleet = release.namespace
    with ThreadPoolExecutor() as helm:
        telling = helm.submit(release.run, "test", release.name, "--timeout", "60s", check=False)
        pod = eventually(lambda: fleet.find("pods", "greenfleet-test"), "the pod of the test")
        assert pod["spec"]["containers"][0]["args"] == [f"--operator-namespace={fleet.name}", "--timeout=2m"]
        fleet.api.merge(f"{fleet.path('pods', 'greenfleet-test')}/status", {"status": {"phase": phase}})
        said = telling.result()
    assert phase in said
    if phase == "Succeeded":
        left = "/apis/rbac.authorization.k8s.io/v1/clusterroles/greenfleet-test-pools"
        eventually(lambda: release.api.find(left) is None, "its rights are gone")
        assert fleet.find("pods", "greenfleet-test") is None
    else:
        assert "Error" in said
