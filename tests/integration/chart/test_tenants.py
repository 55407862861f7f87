"""What the built-in roles view and edit give a tenant, once the chart's roles are aggregated into them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.chart.conftest import CRD, Release
from tests.integration.operator.harness import Api, Namespace, Object, cluster, eventually, fresh_name

RIGHTS: dict[str, dict[tuple[str, str], bool]] = {
    "view": {
        ("get", "greenworkerpools"): True,
        ("list", "greenworkerpools"): True,
        ("create", "greenworkerpools"): False,
        ("patch", "greenworkerpools/scale"): False,
        ("get", "secrets"): False,
    },
    "edit": {
        ("create", "greenworkerpools"): True,
        ("patch", "greenworkerpools"): True,
        ("delete", "greenworkerpools"): True,
        ("patch", "greenworkerpools/scale"): True,
        ("patch", "greenworkerpools/status"): False,
        ("update", "greenworkerpools/status"): False,
    },
}


@pytest.fixture(scope="module")
def tenants(chart_api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """A namespace with a viewer and an editor, beside a release."""
    home = tmp_path_factory.mktemp("helm")
    release = Release(Path(cluster("program", "helm")), Namespace(chart_api, fresh_name("release")), "greenfleet", home)
    release.install()
    release.crd_is_served()
    shop = Namespace(chart_api, fresh_name("tenants"))
    for role in RIGHTS:
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": f"tenant-{role}"}],
        }
        chart_api.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{shop.name}/rolebindings", binding)
    eventually(lambda: _may(chart_api, "edit", "create", "greenworkerpools", shop.name), "the roles are aggregated")
    yield shop
    release.uninstall()
    chart_api.delete(CRD)
    eventually(lambda: chart_api.find(CRD) is None, "the CRD is gone", 60)


def _may(api: Api, role: str, verb: str, resource: str, namespace: str) -> bool:
    kind, _, subresource = resource.partition("/")
    group = "greenfleet.io" if kind == "greenworkerpools" else ""
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": kind, "subresource": subresource}
    review: Object = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": f"tenant-{role}", "resourceAttributes": attributes},
    }
    answer = api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


@pytest.mark.parametrize("role", RIGHTS)
def test_a_tenant_may_what_the_role_says_in_their_namespace_and_nothing_elsewhere(
    role: str, tenants: Namespace
) -> None:
    for (verb, resource), allowed in RIGHTS[role].items():
        assert _may(tenants.api, role, verb, resource, tenants.name) is allowed, (verb, resource)
        assert not _may(tenants.api, role, verb, resource, "default"), (verb, resource)
