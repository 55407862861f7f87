"""What the built-in roles view and edit give a tenant, once the chart's roles are aggregated into them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.chart.conftest import CRD, Release
from tests.integration.operator.harness import Api, Namespace, cluster, eventually, fresh_name
from tests.integration.operator.rights import may

POOLS = "greenfleet.io/greenworkerpools"
RIGHTS: dict[str, dict[tuple[str, str], bool]] = {
    "view": {
        ("get", POOLS): True,
        ("list", POOLS): True,
        ("create", POOLS): False,
        ("patch", f"{POOLS}/scale"): False,
        ("get", "/secrets"): False,
    },
    "edit": {
        ("create", POOLS): True,
        ("patch", POOLS): True,
        ("delete", POOLS): True,
        ("patch", f"{POOLS}/scale"): True,
        ("patch", f"{POOLS}/status"): False,
        ("update", f"{POOLS}/status"): False,
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
    eventually(lambda: may(chart_api, "tenant-edit", "create", POOLS, shop.name), "the roles are aggregated")
    yield shop
    release.uninstall()
    chart_api.delete(CRD)
    eventually(lambda: chart_api.find(CRD) is None, "the CRD is gone", 60)


@pytest.mark.parametrize("role", RIGHTS)
def test_a_tenant_may_what_the_role_says_in_their_namespace_and_nothing_elsewhere(
    role: str, tenants: Namespace
) -> None:
    for (verb, resource), allowed in RIGHTS[role].items():
        assert may(tenants.api, f"tenant-{role}", verb, resource, tenants.name) is allowed, (verb, resource)
        assert not may(tenants.api, f"tenant-{role}", verb, resource, "default"), (verb, resource)
