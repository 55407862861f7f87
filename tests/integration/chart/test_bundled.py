"""What the bundled Prometheus' own account may do, asked of a real API server."""

from __future__ import annotations

import pytest

from tests.integration.chart.conftest import Release
from tests.integration.operator.harness import Namespace, eventually, fresh_name
from tests.integration.operator.rights import may

READ = ("get", "list", "watch")
FORBIDDEN = (
    *(
        ("list", resource)
        for resource in ("/secrets", "/configmaps", "/services", "/nodes", "greenfleet.io/greenworkerpools")
    ),
    *((verb, "/pods") for verb in ("create", "patch", "delete")),
    ("patch", "/pods/status"),
    ("get", "/pods/log"),
    ("create", "/pods/exec"),
    ("get", "/pods/proxy"),
)


def _account(release: Release) -> str:
    return f"system:serviceaccount:{release.namespace.name}:greenfleet-prometheus"


def test_the_bundled_prometheus_may_read_pods_and_nothing_else(release: Release) -> None:
    release.install(crds={"enabled": False})
    account, api = _account(release), release.api
    eventually(lambda: may(api, account, "list", "/pods", "default"), "its role is bound")
    assert all(may(api, account, verb, "/pods", "default") for verb in READ)
    allowed = [entry for entry in FORBIDDEN if may(api, account, *entry, release.namespace.name)]
    assert allowed == []


@pytest.mark.parametrize("scope", [1, 2])
def test_with_named_namespaces_it_reads_pods_there_and_nowhere_else(release: Release, scope: int) -> None:
    shops = [Namespace(release.api, fresh_name("scope")).name for _ in range(scope)]
    release.install(crds={"enabled": False}, scope={"namespaces": shops})
    account = _account(release)
    for shop in shops:
        eventually(lambda shop=shop: may(release.api, account, "list", "/pods", shop), "its role is bound")
    assert not may(release.api, account, "list", "/pods", "default")
    assert not may(release.api, account, "list", "/pods", release.namespace.name)


def test_a_server_of_the_users_in_an_upgrade_takes_the_bundled_one_away(release: Release) -> None:
    release.install(crds={"enabled": False})
    assert release.namespace.find("deployments", "greenfleet-prometheus") is not None
    said = release.install(
        crds={"enabled": False}, prometheus={"servers": {"default": {"url": "http://p.monitoring:9090"}}}
    )
    assert "http://p.monitoring:9090" in said
    for kind in ("deployments", "configmaps", "networkpolicies"):
        assert release.namespace.find(kind, "greenfleet-prometheus") is None, kind


def test_a_server_of_the_users_that_is_called_bundled_is_not_said_to_be_of_the_release(release: Release) -> None:
    mine = {"servers": {"bundled": {"url": "http://p.monitoring:9090"}}, "bundled": {"enabled": False}}
    said = release.install(crds={"enabled": False}, prometheus=mine)
    assert "http://p.monitoring:9090" in said
    assert "must scrape pods that have the label greenfleet.io/scrape=true" in said
    assert "a small one of this release" not in said
