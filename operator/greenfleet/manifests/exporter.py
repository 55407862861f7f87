"""The queue-depth exporter: one small Deployment per broker of a namespace, shared by all pools of that broker.

It is always built from the full list of its pools: a view from one pool would drop the others' queues.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenfleet.api import API_VERSION, KIND, GreenWorkerPool
from greenfleet.api.pool import Broker, CaSecretRef, PoolSpec, SecretKeyRef
from greenfleet.manifests import names
from greenfleet.manifests.children import Child, owner_reference
from greenfleet.manifests.monitor import API_VERSION as MONITOR_API_VERSION
from greenfleet.manifests.monitor import Monitoring, exporter_monitor
from greenfleet.manifests.network import exporter_network_policy
from greenfleet.manifests.pods import (
    QUOTA_NAMES,
    USUAL,
    Manifest,
    PodDefaults,
    http_probe,
    larger,
    metrics_port,
    plain,
    pruned,
    restricted_container,
    restricted_pod,
    url_env,
    with_requests,
)
from greenfleet.manifests.worker import placement, queues_of, users_annotations

_REQUESTS = {"cpu": "10m", "memory": "48Mi"}
_LIMITS = {"memory": "192Mi"}
_BROKER_VARIABLE = "GREENWORKER_BROKER"
OVERLAP_SECONDS = 30
"""A new exporter's pod has to be ready for so long before the old one goes: Prometheus' default scrape interval for
pods, and twice what it takes to find one.
"""


def exporter_children(
    pools: Sequence[GreenWorkerPool],
    image: str,
    pull_policy: str,
    pull_secrets: Sequence[str],
    monitoring: Monitoring | None = None,
    *,
    defaults: PodDefaults = USUAL,
) -> tuple[Child, ...]:
    """What all pools of one broker, at least one, share: the exporter's Deployment and what goes with it. Where they
    differ, the first of them by name decides, in whatever order they come.
    """
    pools = sorted(pools, key=lambda pool: pool.name)
    broker = pools[0].spec.broker
    name = names.exporter_name(broker.identity)
    found = [
        _config(pools, name),  # before the pods that read it
        exporter_network_policy(pools, name),
        _deployment(pools, name, _Image(image, pull_policy, tuple(pull_secrets)), defaults),
    ]
    if monitoring is not None:
        found.append(exporter_monitor(name, pools[0].namespace, monitoring))
    manifests = [manifest for manifest in found if manifest is not None]
    owners = [owner_reference(pool, controller=False) for pool in pools]
    for manifest in manifests:
        manifest["metadata"]["ownerReferences"] = owners
    return tuple(Child(manifest) for manifest in manifests)


def same_for_exporter(before: GreenWorkerPool, after: GreenWorkerPool) -> bool:
    """Whether a change of a pool leaves its exporter as it is. Whatever an exporter takes from a pool, the exporter of
    that pool alone shows.
    """
    one, two = ([child.manifest for child in exporter_children([pool], "", "", ())] for pool in (before, after))
    return one == two


def optional_exporter_children(name: str) -> tuple[tuple[str, str, str], ...]:
    """API version, kind and name of what an exporter may have had besides its Deployment and need not have now."""
    return (("networking.k8s.io/v1", "NetworkPolicy", name), (MONITOR_API_VERSION, "PodMonitor", name))


def config_of_gone_exporter(namespace: str, name: str) -> Child:
    """The ConfigMap of an exporter that no pool needs any more, with an owner that does not exist: the garbage
    collector takes such an object.
    """
    nobody = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": name,
        "uid": f"nobody-{name}",
        "blockOwnerDeletion": False,
    }
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": names.exporter_labels(name),
        "ownerReferences": [nobody],
    }
    return Child({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})


def measured_broker(deployment: Mapping[str, Any]) -> str | None:
    """The identity, in its namespace, of the broker that a Deployment is the queue exporter of; None: it is none of
    ours.
    """
    metadata = deployment["metadata"]
    if (metadata.get("labels") or {}).get(names.ROLE_LABEL) != names.Role.EXPORTER:
        return None
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        for variable in container.get("env") or ():
            namespace, _, broker = str(variable.get("value", "")).partition("/")
            if variable["name"] == _BROKER_VARIABLE and namespace == metadata["namespace"]:
                ours = bool(broker) and metadata["name"] == names.exporter_name(broker)
                return broker if ours else None
    return None


def _config(pools: Sequence[GreenWorkerPool], name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": pools[0].namespace, "labels": names.exporter_labels(name)},
        "data": {"queues": json.dumps(queue_list(pools), sort_keys=True)},
    }


def queues_digest(children: Sequence[Child]) -> str:
    """Names the list of queues that the exporter's pods are to have read."""
    text = next(child.manifest["data"]["queues"] for child in children if child.kind == "ConfigMap")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Image:
    """The exporter's image, and how it is pulled."""

    name: str
    pull_policy: str
    pull_secrets: tuple[str, ...]


def _deployment(pools: Sequence[GreenWorkerPool], name: str, image: _Image, defaults: PodDefaults) -> Manifest:
    labels = names.exporter_labels(name)
    spec = pools[0].spec
    users_labels = spec.worker.labels if spec.exporter.labels is None else spec.exporter.labels
    annotations = spec.worker.annotations if spec.exporter.annotations is None else spec.exporter.annotations
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": pools[0].namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": names.exporter_selector(name)},
            "revisionHistoryLimit": 3,
            # The old exporter answers until the new one does, and for so long that every Prometheus has found it: no
            # gap in the samples.
            "minReadySeconds": OVERLAP_SECONDS,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": pruned(
                    {
                        "labels": names.pod_labels(labels, users_labels),
                        "annotations": users_annotations(annotations),
                    }
                ),
                "spec": _pod(pools, name, image, defaults),
            },
        },
    }


def _pod(pools: Sequence[GreenWorkerPool], name: str, image: _Image, defaults: PodDefaults) -> Manifest:
    spec = pools[0].spec
    files = _files(pools, name)
    return pruned(
        {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 5,
            "securityContext": restricted_pod(defaults, spec.worker.security_context),
            **placement(spec.worker.model_copy(update={"affinity": None}), spec.exporter),
            "imagePullSecrets": [{"name": secret_name} for secret_name in image.pull_secrets],
            "containers": [
                {
                    "name": names.EXPORTER_CONTAINER,
                    "image": image.name,
                    "imagePullPolicy": image.pull_policy,
                    "command": ["python", "-m", "greenworker.exporter"],
                    "env": _environment(pools),
                    "ports": [metrics_port()],
                    "resources": _resources(spec),
                    "securityContext": restricted_container(read_only_root=True),
                    "readinessProbe": http_probe("/readyz", period_seconds=2, failure_threshold=3),
                    "livenessProbe": http_probe("/healthz", period_seconds=10, failure_threshold=3),
                    "volumeMounts": [mount for _, mount in files],
                }
            ],
            "volumes": [volume for volume, _ in files],
        }
    )


def _resources(spec: PoolSpec) -> Manifest:
    """With each limit that a quota may ask for, where the worker has one: as high as the worker's, or as the exporter's
    own request if that is higher.
    """
    found = with_requests(spec.exporter.resources, _REQUESTS, _LIMITS)
    limits, requests, workers = found.get("limits", {}), found.get("requests", {}), spec.worker.resources.limits
    missing = [name for name in QUOTA_NAMES if name in workers and name not in limits]
    more = {name: larger(workers[name], requests.get(name, workers[name])) for name in missing}
    return pruned({**found, "limits": {**limits, **more}})


def _environment(pools: Sequence[GreenWorkerPool]) -> list[Manifest]:
    broker = pools[0].spec.broker
    environment: list[Manifest] = [
        {"name": _BROKER_VARIABLE, "value": pools[0].broker_key},
        {"name": "GREENWORKER_BROKER_URL_FILE", "value": f"{names.BROKER_DIRECTORY}/url"}
        if broker.url_from is not None
        else {"name": "GREENWORKER_BROKER_DIRECTORY", "value": names.BROKER_DIRECTORY},
        {"name": "GREENWORKER_METRICS_PORT", "value": str(names.METRICS_PORT)},
        {"name": "GREENWORKER_QUEUES_FILE", "value": f"{names.QUEUES_DIRECTORY}/queues"},
        # What comes from a Secret is read from the volume's files, which follow it. The variables make kubelet name a
        # missing Secret in the pod's status, which a volume does not.
        *url_env("GREENWORKER_BROKER_URL_CHECK", "GREENWORKER_BROKER", broker),
    ]
    if metrics_ports := [pool.spec.broker.metrics_port for pool in pools if pool.spec.broker.metrics_port]:
        environment.append({"name": "GREENWORKER_BROKER_METRICS_PORT", "value": str(metrics_ports[0])})
    if _authority(pools) is not None:
        environment.append(
            {"name": "GREENWORKER_BROKER_CA_FILE", "value": f"{names.BROKER_CA_DIRECTORY}/{names.CA_FILE}"}
        )
    if all(pool.spec.broker.insecure_skip_verify for pool in pools):  # one that checks is enough
        environment.append({"name": "GREENWORKER_BROKER_INSECURE_SKIP_VERIFY", "value": "true"})
    return environment


def _authority(pools: Sequence[GreenWorkerPool]) -> CaSecretRef | None:
    """The CA bundle of the broker, as the first of `pools` that has one says."""
    return next((pool.spec.broker.ca_secret_ref for pool in pools if pool.spec.broker.ca_secret_ref is not None), None)


def _files(pools: Sequence[GreenWorkerPool], name: str) -> list[tuple[Manifest, Manifest]]:
    """Each volume, and where it is mounted."""
    found: list[tuple[Manifest, Manifest]] = [
        *(
            (volume, {"name": volume["name"], "mountPath": names.BROKER_DIRECTORY, "readOnly": True})
            for volume in _broker_volumes(pools[0].spec.broker)
        ),
        (
            {"name": "queues", "configMap": {"name": name}},
            {"name": "queues", "mountPath": names.QUEUES_DIRECTORY, "readOnly": True},
        ),
        ({"name": "tmp", "emptyDir": {}}, {"name": "tmp", "mountPath": "/tmp"}),  # noqa: S108
    ]
    if (authority := _authority(pools)) is not None:
        items = [{"key": authority.key, "path": names.CA_FILE}]
        found.append(
            (
                {"name": "broker-ca", "secret": {"secretName": authority.name, "items": items}},
                {"name": "broker-ca", "mountPath": names.BROKER_CA_DIRECTORY, "readOnly": True},
            )
        )
    return found


def _broker_volumes(broker: Broker) -> list[Manifest]:
    """One with the file `url`, or with a file for each part of it that comes from a Secret; none without such parts."""
    if broker.url_from is not None:
        secret = broker.url_from.secret_key_ref
        items = [{"key": secret.key, "path": "url"}]
        return [{"name": "broker", "secret": {"secretName": secret.name, "optional": True, "items": items}}]
    sources = [
        {"secret": {"name": part.name, "optional": True, "items": [{"key": part.key, "path": name}]}}
        for name, part in broker.parts.items()
        if isinstance(part, SecretKeyRef)
    ]
    return [{"name": "broker", "projected": {"sources": sources}}] if sources else []


def queue_list(pools: Sequence[GreenWorkerPool]) -> list[Manifest]:
    """What the exporter measures: every queue once, with the layout of its keys, in a stable order."""
    queues: dict[str, Manifest] = {}
    for pool in sorted(pools, key=lambda pool: pool.name):
        layout = plain(pool.spec.broker)
        for measured in queues_of(pool):
            queues.setdefault(
                measured,
                {"queue": measured, "keyPrefix": layout.get("keyPrefix", ""), "prioritySteps": layout["prioritySteps"]},
            )
    return [queues[name] for name in sorted(queues)]
