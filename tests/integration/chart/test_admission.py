"""The organisation's rules in the chart's ValidatingAdmissionPolicy, as a real API server applies them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.chart.conftest import CRD, Release
from tests.integration.operator.harness import Api, Namespace, Refused, cluster, eventually, fresh_name

RULES = {
    "registries": ["registry.example/apps"],
    "serviceAccounts": ["default", "feeds"],
    "queuePrefixes": {"*": ["other."]},
}


@pytest.fixture(scope="module")
def ruled(chart_api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A release with all rules; queues of its own namespace begin with `shop.` or `shared:`."""
    namespace = Namespace(chart_api, fresh_name("ruled"))
    home = tmp_path_factory.mktemp("helm")
    release = Release(Path(cluster("program", "helm")), namespace, "greenfleet", home)
    prefixes = {namespace.name: ["shop.", "shared:"], **RULES["queuePrefixes"]}  # type: ignore[dict-item]
    release.install(admissionPolicy={"enabled": True, **RULES, "queuePrefixes": prefixes})
    release.crd_is_served()
    eventually(lambda: _refused(namespace, image="elsewhere.example/x"), "the policy is in force")
    yield release
    release.uninstall()
    chart_api.delete(CRD)
    eventually(lambda: chart_api.find(CRD) is None, "the CRD is gone", 60)


def _refused(namespace: Namespace, **spec: Any) -> str:
    good: dict[str, Any] = {"image": "registry.example/apps/hub:1", "queues": ["shop.feeds"]}
    try:
        namespace.apply_pool("feeds", **{**good, **spec})
    except Refused as refusal:
        return refusal.message
    namespace.api.delete(namespace.path("greenworkerpools", "feeds"))
    return ""


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"queues": ["shop.a", "shared:b"]},
        {"worker": {"serviceAccountName": "feeds"}},
        {"image": "registry.example/apps/deep/hub@sha256:" + "a" * 64},
    ],
    ids=["as it is", "both prefixes", "an allowed account", "a digest"],
)
def test_what_the_rules_allow_is_taken(ruled: Release, spec: dict[str, Any]) -> None:
    assert _refused(ruled.namespace, **spec) == ""


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"image": "docker.example/hub:1"}, "spec.image is docker.example/hub:1, which does not come from a registry"),
        ({"image": "registry.example/apps.evil/hub:1"}, "take it from registry.example/apps/"),
        ({"worker": {"serviceAccountName": "admin"}}, "spec.worker.serviceAccountName is admin, which is not allowed"),
        ({"queues": ["shop.a", "news.b"]}, "spec.queues has news.b, which is not a name for namespace"),
        ({"queues": ["other.a"]}, "begin it with shop. or shared:"),
    ],
    ids=["registry", "a registry that only begins alike", "service account", "one queue of two", "another namespace's"],
)
def test_what_the_rules_forbid_is_refused_with_field_value_reason_and_fix(
    ruled: Release, spec: dict[str, Any], said: str
) -> None:
    assert said in _refused(ruled.namespace, **spec)


def test_an_update_is_held_to_the_same_rules(ruled: Release) -> None:
    ruled.namespace.apply_pool("held", image="registry.example/apps/hub:1", queues=["shop.held"])
    path = ruled.namespace.path("greenworkerpools", "held")
    with pytest.raises(Refused, match=r"spec\.image is evil\.example/x"):
        ruled.api.merge(path, {"spec": {"image": "evil.example/x"}})
    ruled.api.delete(path)


def test_a_namespace_that_is_not_listed_has_the_common_prefixes(ruled: Release) -> None:
    elsewhere = Namespace(ruled.api, fresh_name("elsewhere"))
    assert "begin it with other." in _refused(elsewhere, queues=["shop.feeds"])
    assert _refused(elsewhere, queues=["other.feeds"]) == ""
