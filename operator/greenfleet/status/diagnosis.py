"""What is wrong with a pool's pods, as one sentence for the person who has to act. Pure.

Everything comes from the pods' own status: the operator never reads a Secret, but kubelet says when one is missing.
Names of pods are left out: text that changes makes a condition change, and that loops.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from greenfleet.api import quantity
from greenfleet.manifests.names import (
    AGENT_CONTAINER,
    EXPORTER_CONTAINER,
    INSTANCE,
    POOL_LABEL,
    ROLE_LABEL,
    WORKER_CONTAINER,
    Role,
)
from greenfleet.manifests.worker import AGENT_MEMORY_LIMIT
from greenfleet.redaction import redacted
from greenfleet.status.stalled import StalledReason
from greenfleet.status.times import unix_time

_Object = dict[str, Any]

GRACE_SECONDS = 60.0
"""A pool that wants workers may have none ready for so long: an image is pulled, a node comes."""
NOT_BEGUN_SECONDS = 123.0
"""As long as kubelet waits for the volumes of a pod until it complains (k8s.io/kubernetes
pkg/kubelet/volumemanager/volume_manager.go, podAttachAndMountTimeout).
"""
_LONGEST_TEXT = 4096
"""Characters of what somebody else says that are looked at: as many as kubelet takes of a container's last words."""
_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})


def pod_failure(pods: Iterable[_Object], now: float) -> StalledReason | None:
    """The first reason, if any, for which pods cannot start without a human. *now*: Unix time."""
    staying = [pod for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])) if stays(pod)]
    for pod in staying:
        status = pod.get("status") or {}
        for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
            found = _container_failure(pod, container)
            if found is not None:
                return replace(found, message=_without_pod(found.message, pod["metadata"]))
    return next((_not_begun(pod) for pod in staying if now - _begins_since(pod, now) > NOT_BEGUN_SECONDS), None)


def _begins_since(pod: _Object, now: float) -> float:
    """Since when kubelet tries to begin a pod: it says so once it has the volumes, the sandbox and the network, before
    it pulls an image (`PodReadyToStartContainers`, of Kubernetes 1.29). *now* where it need not.
    """
    if not (pod.get("spec") or {}).get("nodeName"):
        return now
    conditions = (pod.get("status") or {}).get("conditions", ())
    return next(
        (
            unix_time(one["lastTransitionTime"])
            for one in conditions
            if (one["type"], one["status"]) == ("PodReadyToStartContainers", "False") and one.get("lastTransitionTime")
        ),
        now,
    )


def _not_begun(pod: _Object) -> StalledReason:
    labels = pod["metadata"].get("labels") or {}
    owner = POOL_LABEL if POOL_LABEL in labels else INSTANCE
    whose = ",".join(f"{name}={labels[name]}" for name in (owner, ROLE_LABEL) if name in labels)
    what = _WORDS[_role(pod)].whose
    return StalledReason(
        "PodNotStarted",
        f"{what}: a pod has not started for more than {int(NOT_BEGUN_SECONDS // 60)} minutes, because kubelet cannot "
        "mount its volumes, or the container runtime refuses it: correct what `kubectl describe pods -l "
        f"{whose}` names below Events (FailedMount, FailedCreatePodSandBox); kubelet tries again by itself",
    )


def _without_pod(text: str, metadata: _Object) -> str:
    """*text* with dots for the pod's name and uid, which kubelet and the container runtime put into paths and names."""
    for unique in (str(metadata["name"]), str(metadata.get("uid") or "")):
        if unique:
            text = re.sub(rf"(?<![A-Za-z0-9-]){re.escape(unique)}(?![A-Za-z0-9-])", "…", text)
    return text


@dataclass(frozen=True, slots=True)
class CapacityShortage:
    """Why a Deployment has fewer pods at work than it should. While others work, it is no stall: nodes and quotas
    change.
    """

    cause: StalledReason
    since: float = 0.0
    """Unix time since which it is so; 0 where waiting helps nobody."""


def capacity_shortage(deployment: _Object | None, pods: Iterable[_Object]) -> CapacityShortage | None:
    """Why pods of a Deployment find no node, or may not even be made."""
    found = _unscheduled([pod for pod in pods if stays(pod)])
    if found is not None:
        return found
    refused = _refused_pods(deployment)
    return None if refused is None else CapacityShortage(refused)


def nothing_runs(found: CapacityShortage | None, pods: Iterable[_Object], now: float) -> StalledReason | None:
    """The stall that a shortage is: no pod has a node, and waiting did not help."""
    if found is None or now - found.since < GRACE_SECONDS:
        return None
    return None if any(stays(pod) and pod["spec"].get("nodeName") for pod in pods) else found.cause


def stays(pod: _Object) -> bool:
    """Whether a pod works or may still begin to: one that drains, and one that has ended, does neither."""
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")  # evicted pods linger
    return not ended and not pod["metadata"].get("deletionTimestamp")


def _unscheduled(pods: Iterable[_Object]) -> CapacityShortage | None:
    waiting = [
        (unix_time(condition["lastTransitionTime"]), condition.get("message", ""), pod)
        for pod in pods
        for condition in (pod.get("status") or {}).get("conditions", ())
        if (condition["type"], condition["status"], condition.get("reason"))
        == ("PodScheduled", "False", "Unschedulable")
    ]
    if not waiting:
        return None
    since, message, first = min(waiting, key=lambda one: one[:2])
    reason, field, fix = _PLACEMENT[_role(first)]
    how_many = "1 pod waits" if len(waiting) == 1 else f"{len(waiting)} pods wait"
    return CapacityShortage(
        StalledReason(reason, f"{field}: {how_many} for a node that can take them ({_stable(message)}): {fix}"), since
    )


_LESS = "ask for less, or add a node"
_PLACEMENT = {
    Role.EVENTLET: ("WorkersUnschedulable", "worker.resources, nodeSelector, tolerations or affinity", _LESS),
    Role.PREFORK: ("WorkersUnschedulable", "prefork.resources, worker.nodeSelector, tolerations or affinity", _LESS),
    Role.EXPORTER: ("ExporterUnschedulable", "the queue exporter", "add a node"),
}
"""By role: reason, what of the spec decides where its pods fit, and the fix."""


def _refused_pods(deployment: _Object | None) -> StalledReason | None:
    """Why the namespace does not let a Deployment have its pods: what no pod's status can say, because there is
    none.
    """
    status = (deployment or {}).get("status") or {}
    if deployment is None:
        return None
    said: _Object = next((one for one in status.get("conditions", ()) if one["type"] == "ReplicaFailure"), {})
    if said.get("status") != "True":
        return None
    reason, message = "PodsRefused", _stable(said.get("message", ""))
    pod, words = deployment["spec"]["template"]["spec"], _WORDS[_role(deployment)]
    if "error looking up service account" in message:
        return StalledReason(
            reason,
            f"{words.account} is {pod.get('serviceAccountName', 'default')!r}, and this namespace has no such "
            f"ServiceAccount: {words.account_fix}",
        )
    if "no PriorityClass with name" in message:
        return StalledReason(
            reason,
            f"{words.priority} is {pod.get('priorityClassName', '')!r}, and the cluster has no such PriorityClass: "
            "create it, or correct the name",
        )
    if "exceeded quota" in message or "failed quota" in message:
        says, fix = "has no room for a pod", f"ask for less in {words.less}, or raise the quota"
        if "must specify" in message:
            says, fix = "asks for resources that a pod does not name", f"set them in {words.limits}"
        return StalledReason(reason, f"the namespace's quota {says} ({message}): {fix}")
    return StalledReason(
        reason, f"{words.whose}: the namespace refuses the pods ({message}): correct the spec, or what refuses them"
    )


def _role(owned: _Object) -> Role:
    """Of a pod or Deployment. One whose label somebody has changed counts as the worker's."""
    said = (owned["metadata"].get("labels") or {}).get(ROLE_LABEL)
    return next((role for role in Role if role == said), Role.EVENTLET)


@dataclass(frozen=True, slots=True)
class _Words:
    """What of the spec decides about pods of a role, and the words for it."""

    whose: str
    account: str
    account_fix: str
    priority: str
    limits: str
    less: str


_WORDS = {
    Role.EVENTLET: _Words(
        whose="worker",
        account="worker.serviceAccountName",
        account_fix="create it, or correct the name",
        priority="worker.priorityClassName",
        limits="worker.resources; a quota on limits.cpu also needs worker.startupBoost.cpu: 0",
        less="worker.resources, lower replicas.max",
    ),
    Role.PREFORK: _Words(
        whose="prefork",
        account="worker.serviceAccountName (also for prefork)",
        account_fix="create it, or correct the name",
        priority="prefork.priorityClassName, or else worker.priorityClassName,",
        limits="prefork.resources",
        less="prefork.resources, lower prefork.replicas.max",
    ),
    Role.EXPORTER: _Words(
        whose="the queue exporter",
        account="the ServiceAccount of the queue exporter",
        account_fix="create it",
        priority="exporter.priorityClassName, or else worker.priorityClassName,",
        limits="worker.resources, which count for the exporter too, or in exporter.resources",
        less="exporter.resources or worker.resources, lower replicas.max",
    ),
}


def _container_failure(pod: _Object, container: _Object) -> StalledReason | None:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    what = _image_field(container["name"])
    if reason in _IMAGE_REASONS:
        return StalledReason(
            "ImageUnavailable",
            f"{what} is {container.get('image', '')!r}: the image cannot be pulled ({reason}): "
            f"{_ADMINISTRATORS_PULL if what == _OWN_IMAGE else 'correct the name, or add imagePullSecrets'}",
        )
    if reason == "CreateContainerConfigError":
        return (
            _root_user(message, str(container.get("image", "")))
            or _missing_reference(message)
            or _not_configured(container["name"], message)
        )
    last = (container.get("lastState") or {}).get("terminated") or {}
    if reason in ("CrashLoopBackOff", "CreateContainerError", "RunContainerError"):
        terminated = last
    elif _tries_again(container):
        terminated, reason = last, "Error"
    else:
        terminated, reason = state.get("terminated") or {}, "Error"
        if not terminated.get("exitCode"):
            return None
    return (
        _own_words(terminated)
        or _out_of_memory(pod, container["name"], terminated)
        or _not_executable(container, terminated.get("message") or message)
        or _crash(what, reason, terminated, message)
    )


def _tries_again(container: _Object) -> bool:
    """Whether a container that failed runs once more and is not ready: nothing is better yet. One that says itself
    what has to be repaired fails again for certain; any other had an accident until it fails twice.
    """
    last = (container.get("lastState") or {}).get("terminated") or {}
    if "running" not in (container.get("state") or {}) or container.get("ready") or not last.get("exitCode"):
        return False
    return container.get("restartCount", 0) > 1 or _own_words(last) is not None


_OWN_IMAGE = "the operator's worker.image"
_ADMINISTRATORS_PULL = (
    "the administrator corrects the name, or adds to worker.imagePullSecrets of the operator's configuration "
    "(workerImage.pullSecrets of the chart) a Secret that this namespace has"
)


def _image_field(container: str) -> str:
    """What decides the image of a container, in the pool or in the operator's configuration."""
    if container in (AGENT_CONTAINER, EXPORTER_CONTAINER):
        return _OWN_IMAGE
    return "spec.image" if container == WORKER_CONTAINER else f"worker.podTemplatePatch, container {container}, image"


def _root_user(message: str, image: str) -> StalledReason | None:
    """Of a container that kubelet does not start, because its user is root or may be."""
    if match := re.search(r"image has non-numeric user \(([^)]*)\)", message):
        whose = f"the user of the image {image!r} is {match[1]!r}, a name, of which nobody can tell that it is not root"
    elif "image will run as root" in message:
        whose = f"the image {image!r} runs as root"
    elif "runAsUser breaks non-root policy" in message:
        return StalledReason(
            "WorkerMisconfigured",
            "worker.podTemplatePatch sets runAsUser to 0 in a container, and no container may run as root: choose "
            "another user",
        )
    else:
        return None
    return StalledReason(
        "WorkerMisconfigured",
        f"worker.securityContext.runAsUser is Image, and {whose}: set it to the number of a user who may run the "
        "image, or name the user by number in the image (USER 1000)",
    )


def _missing_reference(message: str) -> StalledReason | None:
    reason = "ReferenceMissing"
    if match := re.search(r'(secret|configmap) "([^"]+)" not found', message):
        kind, name = {"secret": "Secret", "configmap": "ConfigMap"}[match[1]], match[2]
        return StalledReason(
            reason,
            f"{_reference_field(kind)} is {name!r}, and this namespace has no such {kind}: create it, or correct "
            "the name",
        )
    if match := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) \S+?/(\S+)", message):
        key, kind, name = match.groups()
        return StalledReason(
            reason,
            f"{_reference_field(kind)} is {name!r} with key {key!r}, and the {kind} has no such key: add the key, "
            "or correct the reference",
        )
    return None


def _reference_field(kind: str) -> str:
    return "broker, resultBackend or worker.env" if kind == "Secret" else "worker.env or worker.envFrom"


def _not_configured(container: str, message: str) -> StalledReason:
    """Of what kubelet says and nobody here knows: the cause may be the pool, or the node (a full disk, an API server
    that kubelet does not reach).
    """
    whose = {
        WORKER_CONTAINER: "worker",
        AGENT_CONTAINER: f"the init container {AGENT_CONTAINER}",
        EXPORTER_CONTAINER: "the queue exporter",
    }
    return StalledReason(
        "ContainerFails",
        f"{whose.get(container, f'worker.podTemplatePatch, container {container}')}: kubelet cannot configure the "
        f"container (CreateContainerConfigError): {_stable(message) or 'it does not say why'}: correct what these "
        "words name, in the pool or on the node; kubelet tries again by itself",
    )


def _own_words(terminated: _Object) -> StalledReason | None:
    """The four parts that our own programs leave as their termination message."""
    text = terminated.get("message", "").strip()
    try:
        said = json.loads(text.splitlines()[-1]) if text else {}
    except (ValueError, RecursionError):  # a container writes what it likes
        return None
    if isinstance(said, dict) and {"field", "value", "reason", "fix"} <= said.keys():
        return StalledReason(
            "WorkerMisconfigured", redacted(f"{said['field']} is {said['value']!r}: {said['reason']}: {said['fix']}")
        )
    return None


_NOT_EXECUTED = re.compile(r'exec: "([^"]+)": (.*?)(?:: unknown)?$|executable file `([^`]+)` (not found.*)$')
"""What runc and crun say of a program that they cannot start: its name and why."""


def _not_executable(container: _Object, message: str) -> StalledReason | None:
    """Of a worker whose command's first program cannot be started: the wrapper, or Python itself."""
    match = _NOT_EXECUTED.search(message[:_LONGEST_TEXT].strip())
    if match is None or container["name"] != WORKER_CONTAINER:
        return None
    program, why = match[1] or match[3], _stable(match[2] or match[4])
    field = "worker.python" if program.rpartition("/")[2].startswith(("python", "pypy")) else "worker.wrapper"
    fix = (
        "make it executable in the image (chmod +x)"
        if "permission denied" in why
        else "give its path in the image, or put it there"
    )
    return StalledReason(
        "WorkerMisconfigured",
        f"{field} is {program!r}: the image {container.get('image', '')!r} cannot start it ({why}): {fix}",
    )


def _out_of_memory(pod: _Object, container: str, terminated: _Object) -> StalledReason | None:
    if terminated.get("reason") != "OOMKilled":
        return None
    limit = _memory_limit(pod, container)
    prefork = (pod["metadata"].get("labels") or {}).get(ROLE_LABEL) == Role.PREFORK
    workers = f"{'prefork' if prefork else 'worker'}.{_LIMIT}"
    if container == AGENT_CONTAINER:
        text = _agent_out_of_memory(limit, workers)
    else:
        field, who, more = {
            WORKER_CONTAINER: (
                workers,
                "worker",
                f", or lower {'prefork.processes' if prefork else 'greenThreads.max'}",
            ),
            EXPORTER_CONTAINER: (f"exporter.{_LIMIT}", "queue exporter", ""),
        }.get(container, (f"worker.podTemplatePatch, container {container}, {_LIMIT}", "container", ""))
        text = (
            f"{field} is not set, and the {who} was killed because its node ran out of memory: set it, and a request"
            if limit is None
            else f"{field} is {limit!r}, and the {who} was killed because it needed more: raise it{more}"
        )
    return StalledReason("OutOfMemory", text)


_LIMIT = "resources.limits.memory"


def _agent_out_of_memory(limit: str | None, workers: str) -> str:
    """*workers* is the field with the limit of the worker beside the agent."""
    has = "no memory limit" if limit is None else f"the memory limit {limit!r}"
    text = f"the init container {AGENT_CONTAINER} has {has}, and it was killed because it needed more"
    with suppress(ValueError):  # a limit that no pool could have set, such as a webhook's 1e8
        if limit is not None and quantity(limit) < quantity(AGENT_MEMORY_LIMIT):
            return f"{text}; it gets no more than {workers}: raise {workers} to {AGENT_MEMORY_LIMIT} or more"
    return (
        f"{text}: the administrator names the image of this version in {_OWN_IMAGE}, or the pool sets agent: Installed "
        "and has greenfleet[worker] in its image"
    )


def _memory_limit(pod: _Object, container: str) -> str | None:
    """As the pod has it: a LimitRange may have set what the pool does not say."""
    spec = pod.get("spec") or {}
    for each in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        if each["name"] == container:
            limit = ((each.get("resources") or {}).get("limits") or {}).get("memory")
            return None if limit is None else str(limit)
    return None


def _crash(what: str, reason: str, terminated: _Object, message: str) -> StalledReason:
    text = terminated.get("message", "").strip()
    tail = _stable(" ".join(text.splitlines()[-3:])) or _stable(message) or "it left no message: see its log"
    code = terminated.get("exitCode")
    return StalledReason("ContainerFails", f"{what}: the container ends with status {code} ({reason}): {tail}")


def _stable(text: str) -> str:
    """Without what differs from pod to pod and from minute to minute, and without passwords: redacted before it
    is cut.
    """
    text = redacted(text)[:_LONGEST_TEXT]
    text = re.sub(r"\b(back-off) [\d.a-z]+ ", r"\1 ", text)
    text = re.sub(r"pod=\S+", "", text)
    text = re.sub(r'\bpods "[^"]*"', "pods", text)
    text = re.sub(r", used: .*?, limited: ", ", limited: ", text)
    return text[:600].strip()
