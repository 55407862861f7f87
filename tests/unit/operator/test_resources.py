"""The children of a pool: restricted, labelled, owned, and started as docs/contract.md says."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from greenfleet.api import GreenWorkerPool
from greenfleet.manifests import Monitoring, children_of_pool, exporter_children, names
from greenfleet.manifests.config import start_threads
from greenfleet.manifests.exporter import measured_broker, queue_list
from greenfleet.manifests.names import Role
from greenfleet.manifests.worker import hub_cores, memory_limit_bytes
from tests.unit.operator.objects import Object, pool

IMAGE = "registry.example/greenfleet/worker:1.0"


def manifests(resource: GreenWorkerPool) -> dict[tuple[str, str], Object]:
    """The pool's own children by kind and name."""
    children = children_of_pool(resource, IMAGE, "IfNotPresent")
    return {(one.manifest["kind"], one.manifest["metadata"]["name"]): one.manifest for one in children}


def fleet(resource: GreenWorkerPool, role: Role = Role.EVENTLET) -> Object:
    return manifests(resource)["Deployment", f"{resource.name}-{role}"]


def pod(resource: GreenWorkerPool, role: Role = Role.EVENTLET) -> Object:
    spec: Object = fleet(resource, role)["spec"]["template"]["spec"]
    return spec


def worker(resource: GreenWorkerPool, role: Role = Role.EVENTLET) -> Object:
    container: Object = pod(resource, role)["containers"][0]
    return container


def exporter(*pools: GreenWorkerPool, pull_secrets: tuple[str, ...] = ()) -> Object:
    children = exporter_children(pools, IMAGE, "IfNotPresent", pull_secrets)
    return next(child.manifest for child in children if child.is_deployment)


def environment(container: Object) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


EVERY_POD = {
    "eventlet": lambda: pod(pool(prefork={})),
    "prefork": lambda: pod(pool(prefork={}), Role.PREFORK),
    "installed": lambda: pod(pool(agent="Installed")),
    "exporter": lambda: exporter(pool())["spec"]["template"]["spec"],
}


@pytest.mark.parametrize("which", EVERY_POD)
def test_every_pod_meets_pod_security_restricted(which: str) -> None:
    spec = EVERY_POD[which]()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for forbidden in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        assert forbidden not in spec
    for volume in spec["volumes"]:
        assert "hostPath" not in volume
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in security
        assert all("hostPort" not in port for port in container.get("ports", []))


@pytest.mark.parametrize("which", EVERY_POD)
def test_no_pod_gets_a_token_of_the_api_server_unless_its_service_account_is_named(which: str) -> None:
    assert EVERY_POD[which]()["automountServiceAccountToken"] is False


def test_a_named_service_account_is_used_with_its_token() -> None:
    spec = pod(pool(worker={"serviceAccountName": "crawler"}))
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("crawler", True)


def test_a_service_account_that_is_named_no_more_does_not_come_back() -> None:
    """The API server copies the name into the deprecated `serviceAccount`, and from there into a template without a
    name.
    """
    assert pod(pool())["serviceAccountName"] == "default"


def test_every_pod_has_a_writable_tmp_and_a_mount_of_the_users_there_wins() -> None:
    assert {"name": "greenfleet-tmp", "mountPath": "/tmp"} in worker(pool())["volumeMounts"]
    own = pool(
        worker={
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
        }
    )
    mounts = [mount["name"] for mount in worker(own)["volumeMounts"] if mount["mountPath"] == "/tmp"]
    assert mounts == ["scratch"]


def test_secrets_reach_the_pod_by_reference_only() -> None:
    found = environment(worker(pool(resultBackend={"urlFrom": {"secretKeyRef": {"name": "results", "key": "url"}}})))
    assert found["CELERY_BROKER_URL"] == {"secretKeyRef": {"name": "broker", "key": "url"}}
    assert found["CELERY_RESULT_BACKEND"] == {"secretKeyRef": {"name": "results", "key": "url"}}
    assert "CELERY_RESULT_BACKEND" not in environment(worker(pool()))


PARTS: Object = {
    "transport": "amqps",
    "host": {"secretKeyRef": {"name": "rabbit", "key": "host"}},
    "port": {"value": 5671},
    "path": {"value": "a $(B) c$"},
    "username": {"value": "shop"},
    "password": {"secretKeyRef": {"name": "login", "key": "password"}},
}


@pytest.mark.parametrize("role", [Role.EVENTLET, Role.PREFORK])
def test_parts_of_a_url_reach_the_worker_as_they_are_and_secrets_by_reference(role: Role) -> None:
    found = environment(worker(pool(prefork={}, broker=PARTS, resultBackend=PARTS), role))
    for prefix in ("GREENWORKER_BROKER", "GREENWORKER_RESULT_BACKEND"):
        assert {name: value for name, value in found.items() if re.fullmatch(f"{prefix}_[A-Z]+", name)} == {
            f"{prefix}_TRANSPORT": "amqps",
            f"{prefix}_HOST": {"secretKeyRef": {"name": "rabbit", "key": "host"}},
            f"{prefix}_PORT": "5671",
            f"{prefix}_PATH": "a $$(B) c$$",  # kubelet makes one of two
            f"{prefix}_USERNAME": "shop",
            f"{prefix}_PASSWORD": {"secretKeyRef": {"name": "login", "key": "password"}},
            f"{prefix}_PARTS": "transport,host,port,path,username,password",
        }
    assert (found["CELERY_BROKER_URL"], found["CELERY_RESULT_BACKEND"]) == ("", ""), "the image's own do not count"


def test_parts_of_a_url_reach_the_exporter_as_files_of_their_secrets() -> None:
    resource = pool(broker=PARTS)
    spec = exporter(resource)["spec"]["template"]["spec"]
    sources = {volume["name"]: volume for volume in spec["volumes"]}["broker"]["projected"]["sources"]
    assert [one["secret"] for one in sources] == [
        {"name": "rabbit", "optional": True, "items": [{"key": "host", "path": "host"}]},
        {"name": "login", "optional": True, "items": [{"key": "password", "path": "password"}]},
    ]
    found = environment(spec["containers"][0])
    assert found["GREENWORKER_BROKER_DIRECTORY"] == "/etc/greenfleet/broker"
    assert {"name": "broker", "mountPath": "/etc/greenfleet/broker", "readOnly": True} in spec["containers"][0][
        "volumeMounts"
    ]
    assert found["GREENWORKER_BROKER"] == resource.broker_key
    assert found["GREENWORKER_BROKER_PORT"] == "5671"
    assert not [name for name in found if "URL" in name]
    [_, deployment] = [child.manifest for child in exporter_children([resource], IMAGE, "IfNotPresent", [])]
    assert measured_broker(deployment) == resource.spec.broker.identity


def test_an_exporter_of_a_broker_without_secrets_mounts_none() -> None:
    spec = exporter(pool(broker={"transport": "redis", "host": {"value": "redis"}}))["spec"]["template"]["spec"]
    assert [volume["name"] for volume in spec["volumes"]] == ["queues", "tmp"]
    assert [mount["name"] for mount in spec["containers"][0]["volumeMounts"]] == ["queues", "tmp"]


def test_the_environment_says_everything_that_the_spec_says() -> None:
    found = environment(
        worker(
            pool(
                taskTimeLimits={"soft": "30s", "hard": "1m"},
                recycle={"maxAge": "2h", "maxMemory": "512Mi", "maxTasks": 1000},
                hubWatchdog={"warnAfter": "250ms", "restartAfter": "2m"},
                drain={"timeout": "90s"},
                worker={"prefetchMultiplier": 4},
                broker={
                    "urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}},
                    "keyPrefix": "app:",
                    "prioritySteps": [0, 5],
                },
                prefork={"tasks": ["proj.resize", "proj.video.*"]},
            )
        )
    )
    expected = {
        "GREENWORKER_POOL": "shop/feeds",
        "GREENWORKER_ROLE": "eventlet",
        "GREENWORKER_METRICS_PORT": "9540",
        "GREENWORKER_SOFT_LIMIT_SECONDS": "30",
        "GREENWORKER_HARD_LIMIT_SECONDS": "60",
        "GREENWORKER_MAX_AGE_SECONDS": "7200",
        "GREENWORKER_MAX_MEMORY_BYTES": str(512 * 2**20),
        "GREENWORKER_MAX_TASKS": "1000",
        "GREENWORKER_WARN_AFTER_SECONDS": "0.25",
        "GREENWORKER_RESTART_AFTER_SECONDS": "120",
        "GREENWORKER_DRAIN_SECONDS": "90",
        "GREENWORKER_PREFETCH_MULTIPLIER": "4",
        "GREENWORKER_KEY_PREFIX": "app:",
        "GREENWORKER_PRIORITY_STEPS": "0,5",
        "GREENWORKER_PREFORK_TASKS": '["proj.resize", "proj.video.*"]',
    }
    assert expected.items() <= found.items()
    assert found["GREENWORKER_WORKER"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_what_the_spec_leaves_out_is_empty_in_the_environment_so_that_nothing_else_counts() -> None:
    found = environment(worker(pool()))
    for absent in ("SOFT_LIMIT_SECONDS", "HARD_LIMIT_SECONDS", "MAX_AGE_SECONDS", "MAX_MEMORY_BYTES", "MAX_TASKS"):
        assert found[f"GREENWORKER_{absent}"] == ""
    for absent in ("PREFORK_TASKS", "KEY_PREFIX", "BROKER_PARTS", "RESULT_BACKEND_PARTS", "BROKER_CA_FILE"):
        assert found[f"GREENWORKER_{absent}"] == ""


def test_the_users_environment_comes_after_ours() -> None:
    container = worker(pool(worker={"env": [{"name": "FEED_TIMEOUT", "value": "5"}]}))
    assert container["env"][-1] == {"name": "FEED_TIMEOUT", "value": "5"}


def test_injected_the_users_image_runs_our_launcher_from_an_empty_dir() -> None:
    resource = pool(worker={"python": "/opt/venv/bin/python"})
    init = pod(resource)["initContainers"][0]
    assert (init["name"], init["image"]) == ("greenfleet-agent", IMAGE)
    assert init["command"] == ["python", "-m", "greenworker.bootstrap.inject", "/greenfleet"]
    container = worker(resource)
    assert container["image"] == "registry.example/proj:1.4"
    assert container["command"][:2] == ["/opt/venv/bin/python", "/greenfleet/bin/launch.py"]
    assert "args" not in container  # the image's entrypoint is bypassed, no shell is involved
    assert {"name": "greenfleet-agent", "mountPath": "/greenfleet", "readOnly": True} in container["volumeMounts"]


def test_installed_there_is_no_init_container_and_no_shared_directory() -> None:
    resource = pool(agent="Installed")
    spec = pod(resource)
    assert "initContainers" not in spec
    assert worker(resource)["command"][:3] == ["python3", "-m", "greenworker"]
    assert not [volume for volume in spec["volumes"] if volume["name"] == "greenfleet-agent"]


def test_celery_gets_its_arguments_as_a_list_so_that_no_shell_reads_a_queues_name() -> None:
    resource = pool(queues=["feeds", "a:b/c.d"], worker={"extraArgs": ["--loglevel=INFO", "$(whoami)"]})
    command = worker(resource)["command"]
    assert command[2:] == [
        *["-A", "proj", "worker", "-P", "eventlet", "-Q", "feeds,a:b/c.d", "-n", "worker@%h"],
        *["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"],
        *["--loglevel=INFO", "$(whoami)"],
    ]


def test_the_prefork_companion_consumes_the_companion_queues_with_its_own_resources() -> None:
    resource = pool(
        queues=["a", "b"],
        prefork={"processes": 4, "resources": {"limits": {"cpu": 2}}},
        worker={"resources": {"limits": {"cpu": "500m"}}},
    )
    command = worker(resource, Role.PREFORK)["command"]
    assert command[command.index("-P") : command.index("-n")] == [
        "-P",
        "prefork",
        "-c",
        "4",
        "-Q",
        "a.prefork,b.prefork",
    ]
    assert worker(resource, Role.PREFORK)["resources"]["limits"] == {"cpu": 2}
    assert worker(resource)["resources"]["limits"] == {"cpu": "500m"}
    assert environment(worker(resource, Role.PREFORK))["GREENWORKER_ROLE"] == "prefork"


def test_without_prefork_there_is_no_companion() -> None:
    assert {kind_and_name for kind_and_name in manifests(pool())} == {
        ("ConfigMap", "feeds-greenfleet"),
        ("Deployment", "feeds-eventlet"),
        ("PodDisruptionBudget", "feeds-eventlet"),
    }


def test_the_deployment_says_nothing_about_replicas() -> None:
    assert "replicas" not in fleet(pool())["spec"]


def test_the_grace_period_outlasts_the_drain_and_a_blocked_hub_gets_fifteen_seconds() -> None:
    resource = pool(drain={"timeout": "2m"})
    assert pod(resource)["terminationGracePeriodSeconds"] == 135
    assert worker(resource)["livenessProbe"]["terminationGracePeriodSeconds"] == 15


def test_a_long_blocking_task_that_the_user_allows_does_not_fail_the_liveness_probe() -> None:
    probe = worker(pool(hubWatchdog={"restartAfter": "10m"}))["livenessProbe"]
    assert probe["httpGet"]["path"] == "/healthz"
    assert probe["periodSeconds"] <= 30


def test_the_threads_file_is_the_pods_own_annotation_and_the_start_value_a_config_map() -> None:
    volumes = {volume["name"]: volume for volume in pod(pool())["volumes"]}
    [item] = volumes["greenfleet-pod"]["downwardAPI"]["items"]
    assert item == {"path": "threads", "fieldRef": {"fieldPath": "metadata.annotations['greenfleet.io/threads']"}}
    assert volumes["greenfleet-pool"]["configMap"] == {"name": "feeds-greenfleet", "optional": True}


def test_a_change_of_thread_bounds_scaling_or_routes_never_rolls_the_workers_out() -> None:
    before = fleet(pool())
    after = fleet(
        pool(
            greenThreads={"min": 50, "max": 500, "start": 60, "total": 5000},
            replicas={"min": 2, "max": 50},
            manualReplicas=7,
            scaling={"mode": "Manual", "maxWait": "5s", "pause": "In"},
        )
    )
    assert before["spec"]["template"] == after["spec"]["template"]


def test_the_reconciler_and_the_autoscaler_own_different_keys_of_the_config_map() -> None:
    ours = manifests(pool())["ConfigMap", "feeds-greenfleet"]["data"]
    theirs = start_threads(pool(), 250)["data"]
    assert ours.keys().isdisjoint(theirs.keys())
    assert theirs == {"threads": "250"}
    assert json.loads(ours["routes"]) == []


def test_auto_routes_are_in_the_config_map_in_a_stable_order() -> None:
    children = children_of_pool(pool(), IMAGE, "IfNotPresent", ("proj.b", "proj.a"))
    assert json.loads(children[0].manifest["data"]["routes"]) == ["proj.a", "proj.b"]


def test_every_child_is_owned_by_its_pool_so_that_the_garbage_collector_cleans_up() -> None:
    resource = pool(prefork={})
    for manifest in manifests(resource).values():
        assert manifest["metadata"]["ownerReferences"] == [
            {
                "apiVersion": "greenfleet.io/v1alpha1",
                "kind": "GreenWorkerPool",
                "name": "feeds",
                "uid": resource.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]
        assert manifest["metadata"]["namespace"] == "shop"


def test_the_exporter_is_owned_by_every_pool_of_its_broker_and_controlled_by_none() -> None:
    owners = exporter(pool("b", queues=["b"]), pool("a", queues=["a"]))["metadata"]["ownerReferences"]
    assert [owner["name"] for owner in owners] == ["a", "b"]
    assert all("controller" not in owner for owner in owners)


def test_the_exporter_measures_every_queue_of_every_pool_once_whatever_the_order() -> None:
    one = pool("one", queues=["z", "a"], prefork={})
    two = pool(
        "two", queues=["m"], broker={"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}, "keyPrefix": "p:"}
    )
    forward, backward = exporter(one, two), exporter(two, one)
    assert forward["spec"] == backward["spec"]
    [config, *_] = exporter_children([one, two], IMAGE, "IfNotPresent", [])
    assert [volume for volume in forward["spec"]["template"]["spec"]["volumes"] if volume["name"] == "queues"] == [
        {"name": "queues", "configMap": {"name": config.name}}
    ]
    queues = json.loads(config.manifest["data"]["queues"])
    assert [entry["queue"] for entry in queues] == ["a", "a.prefork", "m", "z", "z.prefork"]
    assert queues[2]["keyPrefix"] == "p:"
    assert queues == queue_list([one, two])


def test_the_exporter_reads_the_broker_url_from_a_file_that_kubelet_keeps_up_to_date() -> None:
    spec = exporter(pool())["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["broker"]["secret"]["secretName"] == "broker"
    assert volumes["broker"]["secret"]["items"] == [{"key": "url", "path": "url"}]
    found = environment(spec["containers"][0])
    assert found["GREENWORKER_BROKER"] == "shop/broker/url"
    assert found["GREENWORKER_BROKER_URL_FILE"] == "/etc/greenfleet/broker/url"


def test_a_private_authority_reaches_worker_and_exporter() -> None:
    resource = pool(
        broker={
            "urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}},
            "caSecretRef": {"name": "broker-ca", "key": "tls.crt"},
        }
    )
    expected = {"secretName": "broker-ca", "items": [{"key": "tls.crt", "path": "ca.crt"}]}
    for spec in (pod(resource), exporter(resource)["spec"]["template"]["spec"]):
        assert expected in [volume.get("secret") for volume in spec["volumes"]]
        assert "/etc/greenfleet/broker-ca" in [mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]]
    found = environment(exporter(resource)["spec"]["template"]["spec"]["containers"][0])
    assert found["GREENWORKER_BROKER_CA_FILE"] == "/etc/greenfleet/broker-ca/ca.crt"


def test_our_image_may_need_credentials_of_its_own() -> None:
    spec = exporter(pool(), pull_secrets=("registry",))["spec"]["template"]["spec"]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]


def test_the_exporter_rolls_over_without_a_gap() -> None:
    strategy = exporter(pool())["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_user_label_never_replaces_one_of_ours() -> None:
    template = fleet(pool(worker={"labels": {"greenfleet.io/pool": "other", "team": "news"}}))["spec"]["template"]
    assert template["metadata"]["labels"]["greenfleet.io/pool"] == "feeds"
    assert template["metadata"]["labels"]["team"] == "news"


def test_a_users_annotation_never_speaks_for_the_operator() -> None:
    resource = pool(
        worker={"annotations": {"greenfleet.io/threads": "9999", "greenfleet.io/agent-image": "x", "a": "b"}}
    )
    annotations = fleet(resource)["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"a": "b", "greenfleet.io/agent-image": IMAGE}


def test_a_disruption_budget_lets_one_worker_go_and_never_blocks_a_drain_of_broken_ones() -> None:
    spec = manifests(pool())["PodDisruptionBudget", "feeds-eventlet"]["spec"]
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert spec["selector"]["matchLabels"] == fleet(pool())["spec"]["selector"]["matchLabels"]


def test_names_of_the_longest_allowed_pool_still_fit_into_a_label() -> None:
    resource = pool("a" * 50)
    for manifest in manifests(resource).values():
        assert len(manifest["metadata"]["name"]) <= 63
        for value in manifest["metadata"]["labels"].values():
            assert len(value) <= 63
    assert len(names.exporter_name("s" * 253 + "/" + "k" * 253)) <= 63


def test_exporters_of_different_secrets_or_keys_have_different_names() -> None:
    found = {names.exporter_name(one) for one in ["a/b", "a/c", "b/b", "ab/", "ab:c"]}
    assert len(found) == 5


@pytest.mark.parametrize(
    ("limits", "cores"), [({}, 1.0), ({"cpu": "500m"}, 0.5), ({"cpu": 4}, 1.0), ({"cpu": "2"}, 1.0), ({"cpu": 1}, 1.0)]
)
def test_one_hub_uses_one_core_at_most(limits: dict[str, Any], cores: float) -> None:
    assert hub_cores(pool(worker={"resources": {"limits": limits}}).spec.worker.resources) == cores


def test_a_memory_limit_is_known_in_bytes() -> None:
    assert memory_limit_bytes(pool().spec.worker.resources) is None
    limited = pool(worker={"resources": {"limits": {"memory": "1Gi"}}})
    assert memory_limit_bytes(limited.spec.worker.resources) == 2**30


REDIS = {"to": [{"podSelector": {"matchLabels": {"app": "redis"}}}], "ports": [{"port": 6379}]}
INTERNET = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}], "ports": [{"port": 443}]}


def test_a_network_policy_lets_scrapes_in_and_dns_and_what_is_listed_out_and_nothing_else() -> None:
    resource = pool(prefork={}, network={"egress": [REDIS, INTERNET]})
    spec = manifests(resource)["NetworkPolicy", "feeds-greenfleet"]["spec"]
    assert spec["podSelector"] == {"matchLabels": {"greenfleet.io/pool": "feeds"}}  # both fleets
    for role in Role.EVENTLET, Role.PREFORK:
        assert fleet(resource, role)["spec"]["template"]["metadata"]["labels"]["greenfleet.io/pool"] == "feeds"
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == [{"ports": [{"protocol": "TCP", "port": 9540}]}]
    dns, redis, internet = spec["egress"]
    assert [(port["protocol"], port["port"]) for port in dns["ports"]] == [("UDP", 53), ("TCP", 53)]
    assert redis == {**REDIS, "ports": [{"protocol": "TCP", "port": 6379}]}
    assert internet == {**INTERNET, "ports": [{"protocol": "TCP", "port": 443}]}


def test_an_empty_selector_means_all_pods_and_stays_in_the_policy() -> None:
    resource = pool(network={"egress": [{"to": [{"namespaceSelector": {}}]}]})
    spec = manifests(resource)["NetworkPolicy", "feeds-greenfleet"]["spec"]
    assert spec["egress"][1] == {"to": [{"namespaceSelector": {}}]}


def test_an_exporter_may_go_where_any_of_its_pools_may_and_has_no_policy_if_none_of_them_has() -> None:
    walled = pool("a", network={"egress": [REDIS]})
    further = pool("b", network={"egress": [REDIS, INTERNET]})
    [_, policy, _] = exporter_children([further, walled, pool("c")], IMAGE, "IfNotPresent", [])
    rules = policy.manifest["spec"]["egress"]
    assert [rule["ports"][0]["port"] for rule in rules] == [53, 6379, 443]
    selected = policy.manifest["spec"]["podSelector"]["matchLabels"].items()
    assert selected <= exporter(walled)["spec"]["template"]["metadata"]["labels"].items()
    assert len(exporter_children([pool()], IMAGE, "IfNotPresent", [])) == 2


def test_each_pod_is_scraped_by_one_pod_monitor() -> None:
    """Two on one target would double every sum."""
    monitoring = Monitoring("5s")
    pools = [pool("a", prefork={}), pool("b")]
    children = [
        *(child for one in pools for child in children_of_pool(one, IMAGE, "IfNotPresent", (), monitoring)),
        *exporter_children(pools, IMAGE, "IfNotPresent", [], monitoring),
    ]
    monitors = [child.manifest for child in children if child.kind == "PodMonitor"]
    pods = [child.manifest["spec"]["template"]["metadata"]["labels"] for child in children if child.is_deployment]
    assert (len(monitors), len(pods)) == (3, 4)
    for labels in pods:
        selectors = [monitor["spec"]["selector"]["matchLabels"].items() for monitor in monitors]
        assert sum(selector <= labels.items() for selector in selectors) == 1


RECOMMENDED = {
    f"app.kubernetes.io/{name}" for name in ("name", "instance", "version", "component", "part-of", "managed-by")
}


def everything() -> list[Object]:
    """Every kind of object that there is."""
    resource, monitoring = pool(prefork={}, network={"egress": [REDIS]}), Monitoring("5s")
    children = [
        *children_of_pool(resource, IMAGE, "IfNotPresent", (), monitoring),
        *exporter_children([resource], IMAGE, "IfNotPresent", [], monitoring),
    ]
    return [child.manifest for child in children]


def test_every_object_has_the_recommended_labels_and_every_pod_those_that_an_upgrade_leaves_alone() -> None:
    found = everything()
    assert len({manifest["kind"] for manifest in found}) == 5
    for manifest in found:
        assert manifest["metadata"]["labels"].keys() >= RECOMMENDED, manifest["kind"]
    pods = [
        manifest["spec"]["template"]["metadata"]["labels"] for manifest in found if manifest["kind"] == "Deployment"
    ]
    for labels in pods:
        assert labels.keys() & RECOMMENDED == RECOMMENDED - {"app.kubernetes.io/version"}


def test_another_version_of_the_operator_labels_its_objects_and_no_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything()
    monkeypatch.setattr(names, "__version__", "9.9.9")
    after = everything()
    assert {manifest["metadata"]["labels"]["app.kubernetes.io/version"] for manifest in after} == {"9.9.9"}
    assert [manifest["spec"] for manifest in after if "spec" in manifest] == [
        manifest["spec"] for manifest in before if "spec" in manifest
    ]


def test_a_user_may_say_what_the_pods_are_a_part_of_and_their_version() -> None:
    own = {"app.kubernetes.io/part-of": "shop", "app.kubernetes.io/version": "1.4"}
    labels = fleet(pool(worker={"labels": own}))["spec"]["template"]["metadata"]["labels"]
    assert own.items() <= labels.items()


def test_the_agents_pull_secrets_reach_the_workers_pods_after_the_users_own_and_each_once() -> None:
    def secrets(**spec: Any) -> Any:
        resource = pool(prefork={}, imagePullSecrets=[{"name": "own"}, {"name": "both"}], **spec)
        children = children_of_pool(resource, IMAGE, "IfNotPresent", agent_pull_secrets=["both", "agents"])
        found = [
            child.manifest["spec"]["template"]["spec"]["imagePullSecrets"] for child in children if child.is_deployment
        ]
        assert len(found) == 2
        assert found[0] == found[1]
        return [one["name"] for one in found[0]]

    assert secrets() == ["own", "both", "agents"]
    assert secrets(agent="Installed") == ["own", "both"], "no image of ours is pulled"


def test_an_exporter_says_which_broker_it_measures_and_only_one_of_its_own_namespace() -> None:
    [_, deployment] = [child.manifest for child in exporter_children([pool()], IMAGE, "IfNotPresent", [])]
    assert measured_broker(deployment) == pool().spec.broker.identity
    for change in ({"namespace": "elsewhere"}, {"name": "greenfleet-queues-0000000000"}, {"labels": {}}):
        assert measured_broker({**deployment, "metadata": {**deployment["metadata"], **change}}) is None
