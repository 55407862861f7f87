"""Promises of the Prometheus that the operator's chart brings, and of the one scrape interval."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import yaml

from greenfleet import settings
from tests.unit.charts.rendering import REPOSITORY, Manifests, Render, of_kind

NAME = "greenfleet-prometheus"
YOURS = {"servers": {"default": {"url": "http://prometheus.monitoring:9090"}}}


def _named(manifests: Manifests, kind: str, name: str = NAME) -> dict[str, Any]:
    (found,) = [one for one in of_kind(manifests, kind) if one["metadata"]["name"] == name]
    return dict(found)


def _names(manifests: Manifests) -> set[tuple[str, str]]:
    return {(one["kind"], one["metadata"]["name"]) for one in manifests}


def _job(manifests: Manifests) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its configuration, and the one job in it."""
    config = yaml.safe_load(_named(manifests, "ConfigMap")["data"]["prometheus.yml"])
    (job,) = config["scrape_configs"]
    return config, job


def _loaded(manifests: Manifests) -> settings.Prometheus:
    """The operator's own reading of its configuration."""
    content = yaml.safe_load(_named(manifests, "ConfigMap", "greenfleet")["data"]["config.yaml"])
    return settings.Settings.model_validate(content).prometheus


@pytest.fixture(scope="module")
def defaults(render: Render) -> Manifests:
    return render("greenfleet")


def test_without_any_value_the_operator_asks_the_bundled_prometheus_by_its_service(defaults: Manifests) -> None:
    loaded = _loaded(defaults)
    assert loaded.default_server == "bundled"
    assert {name: server.url for name, server in loaded.servers.items()} == {
        "bundled": f"http://{NAME}.greenfleet-system.svc:9090"
    }
    (port,) = _named(defaults, "Service")["spec"]["ports"]
    template = _named(defaults, "Deployment")["spec"]["template"]
    assert _named(defaults, "Service")["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    ports = {one["name"]: one["containerPort"] for one in template["spec"]["containers"][0]["ports"]}
    assert (port["port"], ports[port["targetPort"]]) == (9090, 9090)


def test_the_bundled_prometheus_may_read_pods_of_the_operators_scope_and_nothing_else(render: Render) -> None:
    role = _named(render("greenfleet"), "ClusterRole")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    manifests = render("greenfleet", {"scope": {"namespaces": ["shop", "news"]}})
    roles = [one for one in of_kind(manifests, "Role") if one["metadata"]["name"] == NAME]
    assert {one["metadata"]["namespace"] for one in roles} == {"shop", "news"}
    assert all(one["rules"] == role["rules"] for one in roles)
    account = {"kind": "ServiceAccount", "name": NAME, "namespace": "greenfleet-system"}
    bindings = [one for one in of_kind(manifests, "RoleBinding") if one["metadata"]["name"] == NAME]
    assert [one["subjects"] for one in bindings] == [[account], [account]]
    assert _job(manifests)[1]["kubernetes_sd_configs"][0]["namespaces"] == {"names": ["shop", "news"]}
    assert _named(manifests, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == NAME


def test_prometheus_says_itself_whose_sample_it_is_and_no_pod_can_export_without_limits(defaults: Manifests) -> None:
    config, job = _job(defaults)
    (discovery,) = job["kubernetes_sd_configs"]
    assert discovery == {"role": "pod", "selectors": [{"role": "pod", "label": "greenfleet.io/scrape=true"}]}
    rules = job["relabel_configs"]
    assert {rule["target_label"]: rule["source_labels"] for rule in rules if "target_label" in rule} == {
        "namespace": ["__meta_kubernetes_namespace"],
        "pod": ["__meta_kubernetes_pod_name"],
    }
    assert [rule["regex"] for rule in rules if rule.get("action") == "keep"] == ["metrics"]
    assert (job["honor_labels"], job["honor_timestamps"]) == (False, False)
    limits = ("sample_limit", "label_limit", "label_name_length_limit", "label_value_length_limit")
    assert [job[name] for name in limits] == [20000, 40, 200, 1024]
    assert config["storage"]["tsdb"]["retention"]["time"] == "2h"


def test_only_the_operator_may_ask_it(render: Render, defaults: Manifests) -> None:
    policy = _named(defaults, "NetworkPolicy")["spec"]
    operator = _named(defaults, "Deployment", "greenfleet")["spec"]["selector"]["matchLabels"]
    labels = _named(defaults, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert [rule["from"] for rule in policy["ingress"]] == [[{"podSelector": {"matchLabels": operator}}]]
    assert not operator.items() <= labels.items(), "it is no operator itself"
    egress = {"networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}]}]}}
    allowed = _named(render("greenfleet", egress), "NetworkPolicy", "greenfleet")["spec"]["egress"]
    assert [{"podSelector": policy["podSelector"]}] in [rule.get("to") for rule in allowed]


def test_its_memory_and_its_disk_are_bounded(defaults: Manifests) -> None:
    pod = _named(defaults, "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "512Mi"}
    assert {volume["name"]: volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume} == {
        "data": {"sizeLimit": "2Gi"}
    }


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "docker.io/prom/prometheus@sha256:efd719c99d83b060d9daefdcf00360461adf279f45ef5391f8d111892118753e"),
        (
            {"repository": "mirror.example/prometheus"},
            "mirror.example/prometheus@sha256:efd719c99d83b060d9daefdcf00360461adf279f45ef5391f8d111892118753e",
        ),
        ({"tag": "v3.16.0"}, "docker.io/prom/prometheus:v3.16.0"),
        ({"tag": "v3.16.0", "digest": f"sha256:{'a' * 64}"}, f"docker.io/prom/prometheus@sha256:{'a' * 64}"),
    ],
)
def test_its_image_is_the_official_one_by_digest_until_the_user_says_another(
    render: Render, image: dict[str, str], reference: str
) -> None:
    manifests = render("greenfleet", {"prometheus": {"bundled": {"image": image}}})
    assert _named(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"] == reference


def test_a_server_of_the_users_takes_its_place_and_nothing_of_it_is_left(render: Render) -> None:
    manifests = render("greenfleet", {"prometheus": YOURS})
    assert not [one for one in _names(manifests) if "prometheus" in one[1]]
    assert set(_loaded(manifests).servers) == {"default"}
    assert _loaded(manifests).servers["default"].scrape_interval == "15s"


def test_both_are_there_if_the_user_says_so(render: Render) -> None:
    values = {"prometheus": {**YOURS, "bundled": {"enabled": True}}}
    loaded = _loaded(render("greenfleet", values))
    assert {name: server.scrape_interval for name, server in loaded.servers.items()} == {
        "bundled": "2s",
        "default": "15s",
    }
    assert loaded.default_server == "default"


@pytest.mark.parametrize(
    ("prometheus", "default"),
    [
        ({"servers": {"eu": {"url": "http://p:9090"}}}, "eu"),
        ({"servers": {"eu": {"url": "http://p:9090"}, "default": {"url": "http://q:9090"}}}, "default"),
        ({"servers": {"eu": {"url": "http://p:9090"}}, "bundled": {"enabled": True}, "defaultServer": "eu"}, "eu"),
        ({"defaultServer": "bundled"}, "bundled"),
    ],
)
def test_the_default_server_is_the_only_one_or_the_one_that_is_called_so(
    render: Render, prometheus: dict[str, Any], default: str
) -> None:
    assert _loaded(render("greenfleet", {"prometheus": prometheus})).default_server == default


@pytest.mark.parametrize(
    ("prometheus", "said"),
    [
        ({"bundled": {"enabled": False}}, "prometheus.bundled.enabled is false, and prometheus.servers is empty"),
        ({"bundled": {"enabled": "yes"}}, "enabled"),
        (
            {"bundled": {"enabled": True}, "servers": {"bundled": {"url": "http://p:9090"}}},
            "prometheus.servers.bundled has the name of the bundled Prometheus",
        ),
        (
            {"servers": {"eu": {"url": "http://p:9090"}, "us": {"url": "http://q:9090"}}},
            "prometheus.defaultServer is empty, and there are several servers (eu, us)",
        ),
        ({"defaultServer": "foo"}, "prometheus.defaultServer is foo, which is not among prometheus.servers (bundled)"),
        (
            {"bundled": "maybe"},
            "prometheus.bundled is maybe, and it takes no value of its own: set prometheus.bundled.enabled",
        ),
        (
            {"bundled": False},
            "prometheus.bundled is false, and it takes no value of its own: set prometheus.bundled.enabled",
        ),
        (
            {"scrapeInterval": 5},
            "prometheus.scrapeInterval is 5, which is no scrape interval: write a number and a unit",
        ),
        ({"scrapeInterval": "5"}, "prometheus.scrapeInterval is 5, which is no scrape interval"),
        ({"scrapeInterval": 0}, "prometheus.scrapeInterval is 0, which is no scrape interval"),
        ({"scrapeInterval": "0s"}, "prometheus.scrapeInterval is 0s, which is no scrape interval"),
        ({"scrapeInterval": "1h"}, "prometheus.scrapeInterval is 1h, which is no scrape interval"),
        ({"scrapeInterval": "fast"}, "prometheus.scrapeInterval is fast, which is no scrape interval"),
        (
            {"servers": {"default": {"url": "http://p:9090", "scrapeInterval": 5}}},
            "prometheus.servers.default.scrapeInterval is 5, which is no scrape interval",
        ),
        (
            {"servers": {"default": {"url": "http://p:9090", "scrapeInterval": ""}}},
            "prometheus.servers.default.scrapeInterval is empty",
        ),
    ],
)
def test_values_that_contradict_each_other_or_are_no_interval_are_refused(
    render: Render, prometheus: dict[str, Any], said: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render("greenfleet", {"prometheus": prometheus})
    assert said in refused.value.stderr


@pytest.mark.parametrize(("asked", "interval"), [("", "2s"), ("5s", "5s")])
def test_one_value_sets_the_interval_of_bundled_prometheus_monitors_and_staleness(
    render: Render, asked: str, interval: str
) -> None:
    monitoring = {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}
    manifests = render("greenfleet", {"prometheus": {"scrapeInterval": asked}, "metrics": monitoring})
    assert _job(manifests)[0]["global"] == {"scrape_interval": interval}
    assert _loaded(manifests).servers["bundled"].scrape_interval == interval
    ends = [
        end
        for kind, field in (("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints"))
        for one in of_kind(manifests, kind)
        for end in one["spec"][field]
    ]
    assert len(ends) == 2
    assert {end["interval"] for end in ends} == {interval}


def test_a_server_may_say_its_own_interval(render: Render) -> None:
    servers = {"default": {"url": "http://p:9090"}, "slow": {"url": "http://q:9090", "scrapeInterval": "30s"}}
    manifests = render(
        "greenfleet",
        {"prometheus": {"scrapeInterval": "5s", "servers": servers}, "metrics": {"podMonitor": {"enabled": True}}},
    )
    loaded = _loaded(manifests)
    assert {name: one.scrape_interval for name, one in loaded.servers.items()} == {"default": "5s", "slow": "30s"}
    asked = {end["interval"] for one in of_kind(manifests, "PodMonitor") for end in one["spec"]["podMetricsEndpoints"]}
    assert asked == {"5s"}


def test_a_new_scrape_interval_replaces_both_pods(render: Render, defaults: Manifests) -> None:
    changed = render("greenfleet", {"prometheus": {"scrapeInterval": "3s"}})
    for name in ("greenfleet", NAME):
        before, after = (
            _named(one, "Deployment", name)["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for one in (defaults, changed)
        )
        assert before != after


def test_the_program_that_is_built_here_is_the_version_that_the_chart_names() -> None:
    """Prometheus numbers the module of release v3.15.0 v0.315.0."""
    module = (REPOSITORY / "cluster" / "prometheus" / "go.mod").read_text(encoding="utf-8")
    assert "github.com/prometheus/prometheus v0.315.0 " in module
    helpers = (REPOSITORY / "charts" / "greenfleet" / "templates" / "_helpers.tpl").read_text(encoding="utf-8")
    assert "the official v3.15.0 by its digest" in helpers
