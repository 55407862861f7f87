"""The Deployment of one fleet of workers: Eventlet, or its prefork companion."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from greenfleet.api import GreenWorkerPool, duration_seconds, quantity
from greenfleet.api.placement import TopologySpreadConstraint
from greenfleet.api.pool import APPARMOR_ANNOTATION, CaSecretRef, Exporter, Prefork, ResourceAmounts, UrlOrParts, Worker
from greenfleet.manifests import names
from greenfleet.manifests.names import Role
from greenfleet.manifests.patch import patched
from greenfleet.manifests.pods import (
    QUOTA_NAMES,
    USUAL,
    Amount,
    Manifest,
    PodDefaults,
    http_probe,
    metrics_port,
    plain,
    pruned,
    restricted_container,
    restricted_pod,
    smaller,
    sparse,
    url_env,
    with_requests,
)

GRACE_MARGIN_SECONDS = 15
"""Grace beyond `drain.timeout`: giving back, flushing and leaving need some of it."""

_COMMON_ARGUMENTS = ("--without-gossip", "--without-mingle", "--without-heartbeat")
"""Without them an Eventlet worker on AMQP does 17 tasks a second (tests/integration/worker/test_worker_defects.py)."""


DEFAULT_REQUESTS = {"cpu": "50m", "memory": "128Mi"}
"""Of a worker that says nothing, so that a quota admits it: an Eventlet worker with some tasks and a small app."""

AGENT_MEMORY_LIMIT = "128Mi"
"""Of the init container that copies the agent, if the worker's own limit is not lower."""


def fleet_deployment(
    pool: GreenWorkerPool,
    role: Role,
    agent_image: str,
    agent_pull_policy: str,
    agent_pull_secrets: Sequence[str] = (),
    *,
    defaults: PodDefaults = USUAL,
) -> Manifest:
    """The Deployment, without `replicas`: who owns that field is the reconciler's business.

    `agent_pull_secrets` name the Secrets, in the pool's namespace, for the registry of `agent_image`.
    """
    labels = names.fleet_labels(pool.name, role)
    drain = math.ceil(duration_seconds(pool.spec.drain.timeout))
    template: Manifest = {
        "metadata": {
            "labels": names.pod_labels(labels, pool.spec.worker.labels),
            "annotations": {**users_annotations(pool.spec.worker.annotations), names.AGENT_ANNOTATION: agent_image},
        },
        "spec": _pod(
            pool, role, drain, _AgentImage(agent_image, agent_pull_policy, tuple(agent_pull_secrets)), defaults
        ),
    }
    if defaults.allow_patch and pool.spec.worker.pod_template_patch:
        template = patched(template, pool.spec.worker.pod_template_patch)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": names.fleet_name(pool.name, role), "namespace": pool.namespace, "labels": labels},
        "spec": {
            "selector": {"matchLabels": names.fleet_selector(pool.name, role)},
            "revisionHistoryLimit": 3,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template,
        },
    }


def with_agent(deployment: Manifest, agent_image: str) -> Manifest:
    """A fleet's Deployment with another image of the agent, and nothing else changed."""
    changed = deepcopy(deployment)
    template = changed["spec"]["template"]
    before = template["metadata"]["annotations"][names.AGENT_ANNOTATION]
    template["metadata"]["annotations"][names.AGENT_ANNOTATION] = agent_image
    for container in template["spec"].get("initContainers") or ():
        if container["name"] == names.AGENT_CONTAINER and container["image"] == before:  # else the pool's patch says it
            container["image"] = agent_image
    return changed


def users_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """Without ours (`greenfleet.io/threads` on a pod is the operator's own word), and without what takes AppArmor away.

    The API server refuses both; a pool may be older than its rules.
    """
    kept_out = (f"{names.PREFIX}/", APPARMOR_ANNOTATION)
    return {name: value for name, value in annotations.items() if not name.startswith(kept_out)}


@dataclass(frozen=True, slots=True)
class _AgentImage:
    """The image of the init container, and how it is pulled."""

    name: str
    pull_policy: str
    pull_secrets: tuple[str, ...]


def _pull_secrets(pool: GreenWorkerPool, agent: _AgentImage) -> list[Manifest]:
    """The user's first, then the agent's, each once."""
    users = [secret.name for secret in pool.spec.image_pull_secrets]
    agents = agent.pull_secrets if pool.spec.agent == "Inject" else ()
    return [{"name": name} for name in dict.fromkeys([*users, *agents])]


def _pod(pool: GreenWorkerPool, role: Role, drain_seconds: int, agent: _AgentImage, defaults: PodDefaults) -> Manifest:
    worker, place = pool.spec.worker, placement(pool.spec.worker, pool.spec.prefork if role is Role.PREFORK else None)
    inject = pool.spec.agent == "Inject"
    return pruned(
        {
            "terminationGracePeriodSeconds": drain_seconds + GRACE_MARGIN_SECONDS,
            "automountServiceAccountToken": worker.service_account_name is not None,
            # Always said: a name that is only left out comes back, from the deprecated `serviceAccount` that the API
            # server keeps.
            "serviceAccountName": worker.service_account_name or "default",
            "enableServiceLinks": False,
            "securityContext": restricted_pod(defaults, worker.security_context),
            **place,
            "topologySpreadConstraints": [sparse(constraint) for constraint in _spread(pool, role)],
            "imagePullSecrets": _pull_secrets(pool, agent),
            "initContainers": [_agent_container(agent, _agent_limits(pool, role))] if inject else [],
            "containers": [_container(pool, role, drain_seconds)],
            "volumes": _volumes(pool, inject=inject),
        }
    )


def placement(worker: Worker, own: Prefork | Exporter | None) -> Manifest:
    """Where a pod may run: what it says itself, else what the worker says."""

    def pick(field: str) -> Any:
        chosen = getattr(own, field, None)
        return getattr(worker, field) if chosen is None else chosen

    affinity = pick("affinity")
    return {
        "priorityClassName": pick("priority_class_name"),
        "nodeSelector": pick("node_selector"),
        "tolerations": [sparse(toleration) for toleration in pick("tolerations")],
        "affinity": None if affinity is None else sparse(affinity),
    }


def _spread(pool: GreenWorkerPool, role: Role) -> list[TopologySpreadConstraint]:
    own = pool.spec.prefork.topology_spread_constraints if role is Role.PREFORK and pool.spec.prefork else None
    return pool.spec.worker.topology_spread_constraints if own is None else own


def _users_environment(pool: GreenWorkerPool, role: Role) -> list[Manifest]:
    """Those of the role in place of the worker's of the same name."""
    own = pool.spec.prefork.env if role is Role.PREFORK and pool.spec.prefork else []
    named = {variable.name for variable in own}
    return [plain(variable) for variable in (*(one for one in pool.spec.worker.env if one.name not in named), *own)]


def _agent_container(agent: _AgentImage, limits: Mapping[str, Amount]) -> Manifest:
    return {
        "name": names.AGENT_CONTAINER,
        "image": agent.name,
        "imagePullPolicy": agent.pull_policy,
        "command": ["python", "-m", "greenworker.bootstrap.inject", names.AGENT_DIRECTORY],
        "securityContext": restricted_container(read_only_root=True),
        "resources": _agent_resources(limits),
        "volumeMounts": [{"name": "greenfleet-agent", "mountPath": names.AGENT_DIRECTORY}],
    }


def _agent_limits(pool: GreenWorkerPool, role: Role) -> Mapping[str, Amount]:
    """The worker's, without the CPU limit where the booster raises that. If all containers have one, kubelet gives the
    pod one too, and keeps it although the worker's is raised while the init container runs: no worker could start, for
    a container may not have more than its pod (seen: "cpu.cfs_quota_us: invalid argument").
    """
    limits = dict(resources_of(pool, role).limits)
    if "cpu" in limits and quantity(str(pool.spec.worker.startup_boost.cpu)) > quantity(str(limits["cpu"])):
        del limits["cpu"]
    return limits


def _agent_resources(limits: Mapping[str, Amount]) -> Manifest:
    """Those of the agent beside a worker's *limits*: each limit that a quota may ask for and the worker has, and
    nothing above it, so that the pod counts as much as the worker alone.

    Its requests are not the worker's: if all of a pod's requests were its limits, the pod would be Guaranteed, and the
    booster could not raise its limit.
    """
    bounds = {name: limits[name] for name in QUOTA_NAMES if name in limits}
    return {
        "requests": {
            name: smaller(amount, bounds.get(name, amount)) for name, amount in {"cpu": "10m", "memory": "32Mi"}.items()
        },
        "limits": {**bounds, "memory": smaller(AGENT_MEMORY_LIMIT, bounds.get("memory", AGENT_MEMORY_LIMIT))},
    }


def _container(pool: GreenWorkerPool, role: Role, drain_seconds: int) -> Manifest:
    spec, worker = pool.spec, pool.spec.worker
    restart_after = math.ceil(duration_seconds(spec.hub_watchdog.restart_after))
    return pruned(
        {
            "name": names.WORKER_CONTAINER,
            "image": spec.image,
            "imagePullPolicy": spec.image_pull_policy,
            "command": [*worker.wrapper, *_launcher(pool), *celery_arguments(pool, role)],
            "env": [*_environment(pool, role, drain_seconds), *_users_environment(pool, role)],
            "envFrom": [plain(source) for source in worker.env_from],
            "ports": [metrics_port()],
            "resources": with_requests(resources_of(pool, role), DEFAULT_REQUESTS, {}),
            "securityContext": restricted_container(read_only_root=worker.security_context.read_only_root_filesystem),
            "terminationMessagePolicy": "File",  # an application's log is nothing for a status
            "startupProbe": http_probe("/healthz", period_seconds=1, failure_threshold=300),
            "readinessProbe": http_probe("/readyz", period_seconds=2, failure_threshold=3),
            "livenessProbe": http_probe(
                "/healthz",
                period_seconds=max(5, min(30, restart_after // 4)),
                failure_threshold=2,
                terminationGracePeriodSeconds=GRACE_MARGIN_SECONDS,
            ),
            "volumeMounts": [*_mounts(pool), *(plain(mount) for mount in worker.volume_mounts)],
        }
    )


def _launcher(pool: GreenWorkerPool) -> list[str]:
    if pool.spec.agent == "Inject":
        return [pool.spec.worker.python, f"{names.AGENT_DIRECTORY}/bin/launch.py"]
    return [pool.spec.worker.python, "-m", "greenworker"]


def celery_arguments(pool: GreenWorkerPool, role: Role) -> list[str]:
    """Celery's own arguments. The launcher adds the Eventlet pool's size, which it knows from a file."""
    spec = pool.spec
    if role is Role.PREFORK:
        assert spec.prefork is not None
        kind = ["-P", "prefork", "-c", str(spec.prefork.processes)]
    else:
        kind = ["-P", "eventlet"]
    return [
        "-A",
        spec.app,
        "worker",
        *kind,
        "-Q",
        ",".join(consumed_queues(pool, role)),
        "-n",
        "worker@%h",
        *_COMMON_ARGUMENTS,
        "-l",
        "WARNING",
        *spec.worker.extra_args,
    ]


def prefork_queue(queue: str) -> str:
    """The companion queue of a queue."""
    return f"{queue}.prefork"


def roles_of(pool: GreenWorkerPool) -> tuple[Role, ...]:
    """The roles that a pool has workers of."""
    return (Role.EVENTLET,) if pool.spec.prefork is None else (Role.EVENTLET, Role.PREFORK)


def consumed_queues(pool: GreenWorkerPool, role: Role) -> tuple[str, ...]:
    """The queues that the workers of a role consume."""
    return tuple(prefork_queue(queue) if role is Role.PREFORK else queue for queue in pool.spec.queues)


def queues_of(pool: GreenWorkerPool) -> tuple[str, ...]:
    """The queues that a pool's workers consume, the prefork companion's included."""
    return tuple(queue for role in roles_of(pool) for queue in consumed_queues(pool, role))


def _environment(pool: GreenWorkerPool, role: Role, drain_seconds: int) -> list[Manifest]:
    """Each variable that the worker reads, empty where the pool says nothing: one that is left out would be taken
    from the image or from `envFrom`, whose names nobody sees.
    """
    spec, broker, results = pool.spec, pool.spec.broker, pool.spec.result_backend
    values: dict[str, object | None] = {
        "GREENWORKER_POOL": pool.key,
        "GREENWORKER_ROLE": str(role),
        "GREENWORKER_METRICS_PORT": names.METRICS_PORT,
        "GREENWORKER_THREADS_FILE": f"{names.POD_INFO_DIRECTORY}/threads",
        "GREENWORKER_START_FILE": f"{names.POOL_CONFIG_DIRECTORY}/threads",
        "GREENWORKER_ROUTES_FILE": f"{names.POOL_CONFIG_DIRECTORY}/routes",
        "GREENWORKER_DRAIN_SECONDS": drain_seconds,
        "GREENWORKER_WARN_AFTER_SECONDS": _seconds(spec.hub_watchdog.warn_after),
        "GREENWORKER_RESTART_AFTER_SECONDS": _seconds(spec.hub_watchdog.restart_after),
        "GREENWORKER_SOFT_LIMIT_SECONDS": _seconds(spec.task_time_limits.soft),
        "GREENWORKER_HARD_LIMIT_SECONDS": _seconds(spec.task_time_limits.hard),
        "GREENWORKER_MAX_AGE_SECONDS": _seconds(spec.recycle.max_age),
        "GREENWORKER_MAX_MEMORY_BYTES": spec.recycle.max_memory and round(quantity(spec.recycle.max_memory)),
        "GREENWORKER_MAX_TASKS": spec.recycle.max_tasks,
        "GREENWORKER_PREFETCH_MULTIPLIER": spec.worker.prefetch_multiplier,
        "GREENWORKER_MAX_DELIVERIES": spec.dead_letter.max_deliveries,
        "GREENWORKER_CONSUMER_TIMEOUT_SECONDS": _seconds(broker.consumer_timeout),
        "GREENWORKER_ACCEPT_CONTENT": ",".join(spec.worker.accept_content),
        "GREENWORKER_REMOTE_CONTROL": spec.worker.remote_control,
        "GREENWORKER_KEY_PREFIX": broker.key_prefix,
        "GREENWORKER_PRIORITY_STEPS": ",".join(str(step) for step in broker.priority_steps),
        "GREENWORKER_BROKER_CA_FILE": broker.ca_secret_ref and f"{names.BROKER_CA_DIRECTORY}/{names.CA_FILE}",
        "GREENWORKER_BROKER_INSECURE_SKIP_VERIFY": "true" if broker.insecure_skip_verify else None,
        "GREENWORKER_RESULT_BACKEND_CA_FILE": results
        and results.ca_secret_ref
        and f"{names.RESULT_BACKEND_CA_DIRECTORY}/{names.CA_FILE}",
        "GREENWORKER_RESULT_BACKEND_INSECURE_SKIP_VERIFY": "true" if results and results.insecure_skip_verify else None,
        "GREENWORKER_PREFORK_TASKS": json.dumps(spec.prefork.tasks) if spec.prefork is not None else None,
        "GREENWORKER_TERMINATION_LOG": "/dev/termination-log",
        "GREENWORKER_BROKER_PARTS": ",".join(broker.parts),
        "GREENWORKER_RESULT_BACKEND_PARTS": ",".join(results.parts) if results else None,
    }
    environment = [
        *_url_env("CELERY_BROKER_URL", "GREENWORKER_BROKER", broker),
        {"name": "GREENWORKER_WORKER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        *({"name": name, "value": "" if value is None else str(value)} for name, value in values.items()),
    ]
    if results is not None:
        environment += _url_env("CELERY_RESULT_BACKEND", "GREENWORKER_RESULT_BACKEND", results)
    return environment


def _url_env(whole: str, prefix: str, source: UrlOrParts) -> list[Manifest]:
    """As `url_env`, and beside parts an empty URL: what the image or `envFrom` has under that name does not count."""
    nothing = [{"name": whole, "value": ""}] if source.url_from is None else []
    return [*nothing, *url_env(whole, prefix, source)]


def _seconds(duration: str | None) -> str | None:
    return None if duration is None else f"{duration_seconds(duration):g}"


def _volumes(pool: GreenWorkerPool, *, inject: bool) -> list[Manifest]:
    spec = pool.spec
    volumes: list[Manifest] = [
        {
            "name": "greenfleet-pod",
            "downwardAPI": {
                "items": [
                    {
                        "path": "threads",
                        "fieldRef": {"fieldPath": f"metadata.annotations['{names.THREADS_ANNOTATION}']"},
                    }
                ]
            },
        },
        {"name": "greenfleet-pool", "configMap": {"name": names.config_name(pool.name), "optional": True}},
        {"name": "greenfleet-tmp", "emptyDir": {}},
    ]
    if inject:
        volumes.append({"name": "greenfleet-agent", "emptyDir": {"sizeLimit": "64Mi"}})
    for name, _, reference in _authorities(pool):
        items = [{"key": reference.key, "path": names.CA_FILE}]
        volumes.append({"name": name, "secret": {"secretName": reference.name, "items": items}})
    return [*volumes, *(plain(volume) for volume in spec.worker.volumes)]


def _authorities(pool: GreenWorkerPool) -> list[tuple[str, str, CaSecretRef]]:
    """Volume, directory and Secret of each CA bundle."""
    results = pool.spec.result_backend
    found = (
        ("greenfleet-broker-ca", names.BROKER_CA_DIRECTORY, pool.spec.broker.ca_secret_ref),
        ("greenfleet-result-backend-ca", names.RESULT_BACKEND_CA_DIRECTORY, results.ca_secret_ref if results else None),
    )
    return [(volume, directory, reference) for volume, directory, reference in found if reference is not None]


def _mounts(pool: GreenWorkerPool) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "greenfleet-pod", "mountPath": names.POD_INFO_DIRECTORY, "readOnly": True},
        {"name": "greenfleet-pool", "mountPath": names.POOL_CONFIG_DIRECTORY, "readOnly": True},
    ]
    if not any(mount.mount_path == "/tmp" for mount in pool.spec.worker.volume_mounts):  # noqa: S108
        mounts.append({"name": "greenfleet-tmp", "mountPath": "/tmp"})  # noqa: S108
    if pool.spec.agent == "Inject":
        mounts.append({"name": "greenfleet-agent", "mountPath": names.AGENT_DIRECTORY, "readOnly": True})
    for name, directory, _ in _authorities(pool):
        mounts.append({"name": name, "mountPath": directory, "readOnly": True})
    return mounts


def resources_of(pool: GreenWorkerPool, role: Role) -> ResourceAmounts:
    """What a worker of this role has: the prefork companion has its own."""
    spec = pool.spec
    return spec.prefork.resources if role is Role.PREFORK and spec.prefork else spec.worker.resources


def cpu_limit_cores(resources: ResourceAmounts) -> float | None:
    """The container's CPU limit in cores, None without one."""
    limit = resources.limits.get("cpu")
    return None if limit is None else quantity(str(limit))


def hub_cores(resources: ResourceAmounts) -> float:
    """What one worker's hub can use: its CPU limit, and never more than one core, because a hub is one thread."""
    limit = cpu_limit_cores(resources)
    return 1.0 if limit is None else min(1.0, limit)


def memory_limit_bytes(resources: ResourceAmounts) -> float | None:
    """The container's memory limit, None without one."""
    limit = resources.limits.get("memory")
    return None if limit is None else quantity(str(limit))
