"""What the operator's chart renders, for each value file in `values/`: the table `expected.yaml`, and rules that hold
for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import greenfleet
from greenfleet import settings
from tests.unit.charts.rendering import Manifests, Render, of_kind

VALUES = Path(__file__).parent / "values"
NAMES = sorted(file.stem for file in VALUES.glob("*.yaml"))
EXPECTED = yaml.safe_load(
    (Path(__file__).parent / "expected.yaml").read_text(encoding="utf-8").replace("VERSION", greenfleet.__version__)
)
STEP = re.compile(r'\["([^"]+)"\]|\[(\d+)\]|([^.\[\]]+)')

Case = tuple[str, str, str, Any]


def _cases() -> Iterator[Case]:
    for name, objects in EXPECTED.items():
        for which, paths in objects.items():
            for path, value in paths.items():
                yield name, which, path, value


CASES = list(_cases())


@pytest.fixture(scope="module")
def renderings(render: Render) -> dict[str, Manifests]:
    """Every value file, rendered once, with the objects of `helm test`."""
    return {
        name: render("greenfleet", yaml.safe_load((VALUES / f"{name}.yaml").read_text(encoding="utf-8")), tests=True)
        for name in NAMES
    }


def _without_tests(manifests: Manifests) -> Manifests:
    return [one for one in manifests if "helm.sh/hook" not in one["metadata"].get("annotations", {})]


def _at(place: Any, path: str) -> Any:
    """The value at `a.b[0].c["d.e"]`, or None."""
    for key, index, name in STEP.findall(path):
        if index:
            place = place[int(index)] if isinstance(place, list) and int(index) < len(place) else None
        else:
            place = place.get(key or name) if isinstance(place, dict) else None
    return place


def _config(manifests: Manifests) -> dict[str, Any]:
    found = [one for one in of_kind(manifests, "ConfigMap") if "config.yaml" in one.get("data", {})]
    assert len(found) == 1
    return dict(yaml.safe_load(found[0]["data"]["config.yaml"]))


def _component(manifest: dict[str, Any]) -> Any:
    return manifest["metadata"]["labels"]["app.kubernetes.io/component"]


def _identity(manifest: dict[str, Any]) -> tuple[str, ...]:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]


def _found(manifests: Manifests, which: str) -> dict[str, Any]:
    if which == "config":
        return _config(manifests)
    kind, *place, name = which.split("/")
    fits = [
        one
        for one in of_kind(manifests, kind)
        if one["metadata"]["name"] == name and (not place or one["metadata"].get("namespace") == place[0])
    ]
    assert len(fits) == 1, f"{which} is there {len(fits)} times"
    return fits[0]


def test_there_are_enough_value_files_and_assertions_and_none_is_left_out() -> None:
    assert set(EXPECTED) == set(NAMES)
    assert len(NAMES) >= 12
    assert len(CASES) >= 150


@pytest.mark.parametrize(("name", "which", "path", "value"), CASES, ids=lambda part: str(part)[:60])
def test_what_is_rendered(renderings: dict[str, Manifests], name: str, which: str, path: str, value: Any) -> None:
    manifests = _without_tests(renderings[name])
    if which == "count":
        assert len(of_kind(manifests, path)) == value
    else:
        assert _at(_found(manifests, which), path) == value


@pytest.mark.parametrize("name", NAMES)
def test_the_operator_accepts_the_configuration(renderings: dict[str, Manifests], name: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(_config(renderings[name])), encoding="utf-8")
    settings.load(file)


@pytest.mark.parametrize("name", NAMES)
def test_no_object_is_rendered_twice(renderings: dict[str, Manifests], name: str) -> None:
    identities = [_identity(one) for one in renderings[name]]
    assert len(identities) == len(set(identities))


@pytest.mark.parametrize("name", NAMES)
def test_everything_has_the_recommended_labels(renderings: dict[str, Manifests], name: str) -> None:
    ours = [
        one
        for one in renderings[name]
        if one["kind"] != "CustomResourceDefinition" and not one["metadata"]["name"].endswith(("-note", "-text"))
    ]
    wanted = {"name", "instance", "version", "component", "part-of", "managed-by"}
    assert ours
    for one in ours:
        assert {f"app.kubernetes.io/{label}" for label in wanted} <= one["metadata"]["labels"].keys(), _identity(one)


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_meets_pod_security_restricted(renderings: dict[str, Manifests], name: str) -> None:
    pods = [one["spec"]["template"]["spec"] for one in of_kind(renderings[name], "Deployment")]
    pods += [one["spec"] for one in of_kind(renderings[name], "Pod")]
    assert len(pods) == (3 if "bundled" in _config(renderings[name])["prometheus"]["servers"] else 2)
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 10_000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", NAMES)
def test_no_right_is_wider_than_it_must_be(renderings: dict[str, Manifests], name: str) -> None:
    roles = [*of_kind(renderings[name], "ClusterRole"), *of_kind(renderings[name], "Role")]
    for rule in (rule for role in roles for rule in role["rules"]):
        words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not words & {"*", "secrets", "pods/exec", "pods/attach", "serviceaccounts/token", "escalate", "bind"}
        assert not words & {"impersonate", "rbac.authorization.k8s.io", "nodes", "namespaces"}
    if _config(renderings[name])["namespaces"]:
        assert not of_kind(renderings[name], "ClusterRole") + of_kind(renderings[name], "ClusterRoleBinding")


@pytest.mark.parametrize("name", NAMES)
def test_the_test_pod_waits_with_rights_of_its_own(renderings: dict[str, Manifests], name: str) -> None:
    (pod,) = of_kind(renderings[name], "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["restartPolicy"] == "Never"
    account = pod["spec"]["serviceAccountName"]
    operator = next(one for one in of_kind(renderings[name], "Deployment") if _component(one) == "operator")
    assert account != operator["spec"]["template"]["spec"]["serviceAccountName"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == operator["spec"]["template"]["spec"]["containers"][0]["image"]
    hooks = [
        one for one in renderings[name] if one["kind"].endswith("Role") and one["metadata"]["name"].startswith(account)
    ]
    for role in hooks:
        for rule in role["rules"]:
            assert set(rule["verbs"]) <= {"get", "list"}
            assert rule["resources"] in (["greenworkerpools"], ["leases"])
