"""Promises of the operator's chart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.generate import VALUES
from greenfleet import settings
from greenfleet.api.crd import custom_resource_definition
from tests.unit.charts.rendering import CHARTS, REPOSITORY, Manifests, Render, of_kind

GOLDEN = Path(__file__).parent / "rbac.golden.yaml"
NAMED = {"greenfleet.io/scrape": "true", "app.kubernetes.io/component": "operator"}


@pytest.fixture(scope="module")
def defaults(render: Render) -> Manifests:
    return render("greenfleet")


def _of_operator(manifests: Manifests, kind: str) -> Manifests:
    """The operator's own objects of a kind, without those of the bundled Prometheus."""
    component = "app.kubernetes.io/component"
    return [one for one in of_kind(manifests, kind) if one["metadata"]["labels"][component] == "operator"]


def _operator(manifests: Manifests) -> dict[str, Any]:
    (deployment,) = _of_operator(manifests, "Deployment")
    return dict(deployment["spec"]["template"])


def _config(manifests: Manifests) -> dict[str, Any]:
    (config,) = _of_operator(manifests, "ConfigMap")
    return dict(yaml.safe_load(config["data"]["config.yaml"]))


def _rules(manifests: Manifests) -> list[dict[str, Any]]:
    return [rule for kind in ("ClusterRole", "Role") for role in of_kind(manifests, kind) for rule in role["rules"]]


def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "charts.generate", "--check"],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr


def _used_values() -> set[str]:
    """Paths below `.Values` that a template reads, through variables too; a path may stand for all that is below it."""
    used: set[str] = set()
    for template in (CHARTS / "greenfleet" / "templates").rglob("*.*"):
        text = template.read_text(encoding="utf-8")
        aliases = dict(re.findall(r"(\$\w+) := \.Values\.([\w.]+) ", text))
        without = re.sub(r"\$\w+ := \.Values\.[\w.]+ ", "", text)
        used |= set(re.findall(r"\.Values\.([\w.]+)", without))
        used |= {
            f"{aliases[name]}.{rest}" for name, rest in re.findall(r"(\$\w+)\.([\w.]+)", without) if name in aliases
        }
    return used


def test_every_value_is_described_and_used() -> None:
    used = _used_values()
    for value in VALUES:
        assert len(value.description) > 3, value.path
        parts = value.path.split(".")
        above = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
        assert above & used, f"{value.path} is read by no template"


def test_lint_has_no_complaint(helm: str) -> None:
    for chart in ("greenfleet", "demo"):
        done = subprocess.run(
            [helm, "lint", "--strict", str(CHARTS / chart)], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_operators_rights_are_exactly_the_golden_ones(render: Render) -> None:
    """A reviewer sees each new right as a line in this file."""
    manifests = render("greenfleet", tests=True)
    roles = {
        role["metadata"]["name"]: role["rules"] for kind in ("ClusterRole", "Role") for role in of_kind(manifests, kind)
    }
    assert roles == yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("values", [{}, {"scope": {"namespaces": ["shop", "news"]}}], ids=["cluster", "namespaces"])
def test_no_role_reads_secrets_runs_commands_or_widens_itself(render: Render, values: dict[str, Any]) -> None:
    for rule in _rules(render("greenfleet", values)):
        words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not words & {"*", "secrets", "pods/exec", "pods/attach", "serviceaccounts/token", "escalate", "bind"}
        assert not words & {"impersonate", "rbac.authorization.k8s.io"}


def test_named_namespaces_get_roles_and_there_is_no_cluster_role(render: Render) -> None:
    manifests = render("greenfleet", {"scope": {"namespaces": ["shop", "news"]}})
    assert not of_kind(manifests, "ClusterRole")
    assert not of_kind(manifests, "ClusterRoleBinding")
    places = {(role["metadata"]["namespace"], role["metadata"]["name"]) for role in of_kind(manifests, "Role")}
    assert places == {
        ("shop", "greenfleet-pools"),
        ("news", "greenfleet-pools"),
        ("shop", "greenfleet-prometheus"),
        ("news", "greenfleet-prometheus"),
        ("greenfleet-system", "greenfleet-leader"),
        ("greenfleet-system", "greenfleet-why"),
    }
    assert _config(manifests)["namespaces"] == ["shop", "news"]
    for binding in _of_operator(manifests, "RoleBinding"):
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "greenfleet", "namespace": "greenfleet-system"}
        ]


def test_the_lease_is_named_except_where_it_has_no_name_yet(defaults: Manifests) -> None:
    leases = [rule for rule in _rules(defaults) if rule["resources"] == ["leases"]]
    for rule in leases:
        assert rule["verbs"] == ["create"] or rule["resourceNames"] == ["greenfleet"]
    assert len(leases) == 3


@pytest.mark.parametrize("release", ["greenfleet", "fleets"])
def test_people_may_reach_the_operators_port_and_no_other_through_a_proxy(render: Render, release: str) -> None:
    manifests = render("greenfleet", {"fullnameOverride": release, "metrics": {"serviceMonitor": {"enabled": True}}})
    (proxied,) = [rule for rule in _rules(manifests) if any("proxy" in resource for resource in rule["resources"])]
    assert (proxied["resources"], proxied["verbs"]) == (["services/proxy"], ["get"])
    (reached,) = proxied["resourceNames"]
    name, _, port = reached.partition(":")
    services = {service["metadata"]["name"]: service for service in of_kind(manifests, "Service")}
    assert [one["targetPort"] for one in services[name]["spec"]["ports"] if one["name"] == port] == ["metrics"]
    template = _operator(manifests)
    assert services[name]["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert "metrics" in [one["name"] for one in template["spec"]["containers"][0]["ports"]]
    (monitor,) = of_kind(manifests, "ServiceMonitor")
    scraped = monitor["spec"]["selector"]["matchLabels"].items()
    assert [one for one, service in services.items() if scraped <= service["metadata"]["labels"].items()] == [release]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"replicaCount": 2}, "replicaCount"),
        ({"image": {"repo": "x"}}, "repo"),
        ({"prometheus": {"servers": {"default": {"url": "http://p:9090", "token": "secret"}}}}, "token"),
        ({"prometheus": {"servers": {"default": {"url": "http://user:word@p:9090"}}}}, "url"),
        ({"prometheus": {"servers": {"default": {"url": "ftp://p"}}}}, "url"),
        ({"prometheus": {"sources": {"mine": {"query": "up"}}}}, "query"),
        ({"replicas": -1}, "replicas"),
        ({"replicas": "two"}, "replicas"),
        ({"tick": "soon"}, "tick"),
        ({"logLevel": "loud"}, "logLevel"),
        ({"scope": {"namespaces": ["Not A Name"]}}, "namespaces"),
        ({"image": {"digest": "sha256:short"}}, "digest"),
        ({"metrics": {"podMonitor": {"on": True}}}, "on"),
        # What the operator would refuse at start is refused at install.
        (
            {"prometheus": {"defaultServer": "foo"}},
            "prometheus.defaultServer is foo, which is not among prometheus.servers (bundled)",
        ),
        (
            {"prometheus": {"defaultServer": "default", "servers": {"eu": {"url": "http://p:9090"}}}},
            "prometheus.defaultServer is default",
        ),
        ({"prometheus": {"sources": {"mine": {}}}}, "selector"),
        ({"prometheus": {"servers": {"default": {"url": "http://p:9090", "scrapeInterval": "0s"}}}}, "scrapeInterval"),
        ({"prometheus": {"servers": {"default": {"url": "http://p:9090", "timeout": "25h"}}}}, "timeout"),
        *(
            ({"prometheus": {"servers": {"default": {"url": "http://p:9090", "basicAuth": {half: "/f"}}}}}, other)
            for half, other in (("usernameFile", "passwordFile"), ("passwordFile", "usernameFile"))
        ),
        *(
            ({"prometheus": {"servers": {"default": {"url": "https://p:9090", half: "/f"}}}}, other)
            for half, other in (("certFile", "keyFile"), ("keyFile", "certFile"))
        ),
        *(
            (
                {"prometheus": {"servers": {"main": {"url": "https://p:9090", **settings}}}},
                f"prometheus.servers.main.{said}",
            )
            for settings, said in (
                ({"certFile": "/c", "keyFile": ""}, "certFile is /c, and keyFile is empty"),
                ({"certFile": "", "keyFile": "/k"}, "keyFile is /k, and certFile is empty"),
                (
                    {"basicAuth": {"usernameFile": "", "passwordFile": "/p"}},
                    "basicAuth.passwordFile is /p, and basicAuth.usernameFile is empty",
                ),
                (
                    {"basicAuth": {"usernameFile": "/u", "passwordFile": ""}},
                    "basicAuth.usernameFile is /u, and basicAuth.passwordFile is empty",
                ),
                (
                    {"url": "http://p", "certFile": "/c", "keyFile": "/k"},
                    "certFile is /c, and its url does not begin with https",
                ),
                (
                    {"bearerTokenFile": "/t", "basicAuth": {"usernameFile": "/u", "passwordFile": "/p"}},
                    "bearerTokenFile is /t, and basicAuth is set too",
                ),
                ({"headers": {"Authorization": "x"}}, "headers has Authorization"),
                ({"queryParameters": {"query": "x"}}, "queryParameters has query"),
            )
        ),
        ({"tick": "0s"}, "tick"),
        ({"leaseDuration": "2s"}, "leaseDuration"),
        ({"apiConcurrency": 0}, "apiConcurrency"),
        ({"apiConcurrency": 257}, "apiConcurrency"),
        (
            {"metrics": {"podMonitor": {"interval": "5s"}}},
            "interval",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_name(render: Render, values: dict[str, Any], field: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render("greenfleet", values)
    assert field in refused.value.stderr


def test_pods_meet_pod_security_restricted_with_a_read_only_root(defaults: Manifests) -> None:
    pod = _operator(defaults)["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_the_operator_is_started_with_the_rendered_configuration(defaults: Manifests) -> None:
    (container,) = _operator(defaults)["spec"]["containers"]
    assert container["command"] == [
        *("python", "-m", "greenfleet", "operator"),
        *("--config", "/etc/greenfleet/config.yaml"),
    ]
    assert [port["containerPort"] for port in container["ports"]] == [9541]
    assert {entry["name"] for entry in container["env"]} == {"POD_NAME", "POD_NAMESPACE"}
    assert NAMED.items() <= _operator(defaults)["metadata"]["labels"].items()


def test_the_operator_itself_accepts_the_rendered_configuration(render: Render, tmp_path: Path) -> None:
    auth = {"usernameFile": "/u", "passwordFile": "/p"}
    values = {
        "workerImage": {"pullSecrets": ["registry"], "digest": f"sha256:{'a' * 64}"},
        "scope": {"namespaces": ["shop"]},
        "prometheus": {
            "sources": {"mine": {"selector": 'depth{job="x"}', "queueLabel": "q"}},
            "servers": {
                "default": {"url": "http://p:9090"},
                "other": {"url": "https://p:9090", "caFile": "/ca/ca.crt", "basicAuth": auth},
            },
        },
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(_config(render("greenfleet", values))), encoding="utf-8")
    loaded = settings.load(file)
    assert loaded.worker.image == f"greenfleet/worker@sha256:{'a' * 64}"
    assert loaded.worker.image_pull_secrets == ["registry"]
    assert loaded.namespaces == ["shop"]
    assert set(loaded.prometheus.servers) == {"default", "other"}
    assert loaded.prometheus.sources["mine"].queue_label == "q"


@pytest.mark.parametrize("span", ["1ms", "99999ms", "3s", "9999s", "1m30s", "999m", "999m9999s"])
def test_every_duration_that_the_schema_takes_the_operator_takes(render: Render, tmp_path: Path, span: str) -> None:
    """And every configuration that helm renders: the operator does not exit over what was installed."""
    lease = "3s" if span.endswith("ms") else span
    server = {"url": "http://p:9090", "scrapeInterval": span, "timeout": span}
    values = {"tick": span, "leaseDuration": lease, "prometheus": {"servers": {"default": server}}}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(_config(render("greenfleet", values))), encoding="utf-8")
    loaded = settings.load(file)
    assert (loaded.tick, loaded.lease_duration) == (span, lease)


def test_one_scrape_interval_is_what_pod_monitors_ask_for_and_by_which_samples_are_stale(render: Render) -> None:
    values = {
        "metrics": {"podMonitor": {"enabled": True}},
        "prometheus": {"defaultServer": "eu", "servers": {"eu": {"url": "http://p:9090", "scrapeInterval": "5s"}}},
    }
    manifests = render("greenfleet", values)
    asked = {end["interval"] for one in of_kind(manifests, "PodMonitor") for end in one["spec"]["podMetricsEndpoints"]}
    config = _config(manifests)
    assert asked == {"5s"}
    assert config["prometheus"]["servers"]["eu"]["scrapeInterval"] == "5s"


CEL_SINCE = {r"\bisCIDR\(": 31, r"\bcidr\(": 31, r"\bisIP\(": 31, r"\bip\(": 31, r"\bformat\.": 32}
"""Functions of CEL by the minor version of Kubernetes that takes them in a new definition: one after the version that
knows them, so that an API server can be rolled back (k8s.io/apiserver, `pkg/cel/environment`).
"""


def test_no_cluster_that_the_chart_admits_refuses_the_definition_for_a_function_that_it_does_not_know() -> None:
    chart = yaml.safe_load((CHARTS / "greenfleet" / "Chart.yaml").read_text(encoding="utf-8"))
    [oldest] = re.findall(r"^>=1\.(\d+)\.0-0$", chart["kubeVersion"])
    definition = json.dumps(custom_resource_definition())
    needed = [since for function, since in CEL_SINCE.items() if re.search(function, definition)]
    assert int(oldest) == max(needed)


def test_the_oldest_kubernetes_is_one_number_everywhere() -> None:
    chart = yaml.safe_load((CHARTS / "greenfleet" / "Chart.yaml").read_text(encoding="utf-8"))
    (oldest,) = re.findall(r"^>=(1\.\d+)\.0-0$", chart["kubeVersion"])
    said = {}
    for file in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"), CHARTS / "greenfleet" / "README.md.in"):
        text = file.read_text(encoding="utf-8")
        found = re.findall(r"Kubernetes ≥ (1\.\d+)|needs Kubernetes (1\.\d+) or newer", text)
        said.update({f"{file.name}:{number}": "".join(versions) for number, versions in enumerate(found)})
    assert len(said) >= 3
    assert set(said.values()) == {oldest}, said


def test_a_new_configuration_replaces_the_pods(render: Render, defaults: Manifests) -> None:
    def checksum(manifests: Manifests) -> str:
        return str(_operator(manifests)["metadata"]["annotations"]["checksum/config"])

    assert checksum(render("greenfleet", {"tick": "3s"})) != checksum(defaults)
    assert checksum(render("greenfleet", {"replicas": 3})) == checksum(defaults)


def test_the_crd_is_the_generated_one_and_stays_after_an_uninstall(render: Render, defaults: Manifests) -> None:
    generated = yaml.safe_load(
        (REPOSITORY / "crds" / "greenfleet.io_greenworkerpools.yaml").read_text(encoding="utf-8")
    )
    (kept,) = of_kind(defaults, "CustomResourceDefinition")
    assert kept["metadata"]["annotations"].pop("helm.sh/resource-policy") == "keep"
    if not kept["metadata"]["annotations"]:
        del kept["metadata"]["annotations"]
    assert kept == generated
    (bare,) = of_kind(render("greenfleet", {"crds": {"keep": False}}), "CustomResourceDefinition")
    assert bare == generated
    assert not of_kind(render("greenfleet", {"crds": {"enabled": False}}), "CustomResourceDefinition")


def test_two_replicas_spread_and_leave_one_at_a_time(defaults: Manifests) -> None:
    (deployment,) = _of_operator(defaults, "Deployment")
    (budget,) = of_kind(defaults, "PodDisruptionBudget")
    assert deployment["spec"]["replicas"] == 2
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert budget["spec"]["selector"]["matchLabels"] == selector
    (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == selector
    assert selector.items() <= _operator(defaults)["metadata"]["labels"].items()


def test_pod_monitors_select_operator_and_pools(render: Render, defaults: Manifests) -> None:
    assert not of_kind(defaults, "PodMonitor")
    values: dict[str, Any] = {"metrics": {"podMonitor": {"enabled": True, "labels": {"release": "kps"}}}}
    operator, pools = of_kind(render("greenfleet", values), "PodMonitor")
    assert operator["metadata"]["labels"]["release"] == "kps"
    assert pools["spec"]["namespaceSelector"] == {"any": True}
    assert pools["spec"]["selector"]["matchLabels"] == {"greenfleet.io/scrape": "true"}
    values["scope"] = {"namespaces": ["shop"]}
    _, named = of_kind(render("greenfleet", values), "PodMonitor")
    assert named["spec"]["namespaceSelector"] == {"matchNames": ["shop"]}


def test_one_pod_monitor_per_pool_takes_the_place_of_the_common_one_and_only_then_costs_a_right(
    render: Render, defaults: Manifests
) -> None:
    assert not [rule for rule in _rules(defaults) if "podmonitors" in rule["resources"]]
    assert _config(defaults)["podMonitors"]["enabled"] is False
    values = {
        "metrics": {"podMonitor": {"enabled": True, "perPool": True, "labels": {"release": "kps"}}},
        "prometheus": {"servers": {"default": {"url": "http://p:9090", "scrapeInterval": "5s"}}},
    }
    manifests = render("greenfleet", values)
    (operator,) = of_kind(manifests, "PodMonitor")
    assert operator["metadata"]["name"] == "greenfleet"
    assert _config(manifests)["podMonitors"] == {"enabled": True, "labels": {"release": "kps"}}
    assert operator["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "interval": "5s"}]
    (rule,) = [rule for rule in _rules(manifests) if "podmonitors" in rule["resources"]]
    assert rule["apiGroups"] == ["monitoring.coreos.com"]


def test_everything_optional_renders_together(render: Render) -> None:
    manifests = render(
        "greenfleet",
        {
            "fullnameOverride": "gf",
            "image": {"repository": "r.example/op", "digest": f"sha256:{'b' * 64}", "pullSecrets": ["s"]},
            "priorityClassName": "high",
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "x", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "podAnnotations": {"a": "b"},
            "podLabels": {"c": "d"},
            "podSecurityContext": {"runAsUser": 1000, "supplementalGroups": [5]},
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "extraVolumes": [{"name": "ca", "secret": {"secretName": "ca"}}],
            "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
            "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}}],
            "networkPolicy": {"enabled": True, "scrapeFrom": [{"namespaceSelector": {}}]},
            "serviceAccount": {"name": "robot", "annotations": {"role": "arn"}},
        },
    )
    pod = _operator(manifests)["spec"]
    (container,) = pod["containers"]
    assert container["image"] == f"r.example/op@sha256:{'b' * 64}"
    assert pod["imagePullSecrets"] == [{"name": "s"}]
    assert pod["serviceAccountName"] == "robot"
    assert pod["priorityClassName"] == "high"
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert pod["tolerations"] == [{"key": "x", "operator": "Exists"}]
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert {"name": "ca", "mountPath": "/ca"} in container["volumeMounts"]
    assert container["env"][-1]["name"] == "HTTPS_PROXY"
    policy = next(one for one in of_kind(manifests, "NetworkPolicy") if one["metadata"]["name"] == "gf")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert {"greenfleet-x", "gf"} <= {entry["metadata"]["name"] for entry in of_kind(manifests, "ConfigMap")}


def test_nothing_is_rendered_that_was_switched_off(render: Render) -> None:
    manifests = render(
        "greenfleet",
        {
            "rbac": {"create": False},
            "serviceAccount": {"create": False, "name": "given"},
            "podDisruptionBudget": {"enabled": False},
            "networkPolicy": {"enabled": False},
            "metrics": {"service": False},
            "spread": {"enabled": False},
            "crds": {"enabled": False},
            "operatorPolicy": {"enabled": False},
            "prometheus": {"servers": {"default": {"url": "http://p:9090"}}},
        },
    )
    kept = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests if manifest["kind"] == "Service"}
    assert kept == {("Service", "greenfleet-why")}, "for people, and not for metrics"
    assert {manifest["kind"] for manifest in manifests} == {"ConfigMap", "Deployment", "Service"}
    assert _operator(manifests)["spec"]["serviceAccountName"] == "given"
