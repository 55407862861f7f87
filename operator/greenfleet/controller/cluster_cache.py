"""The cluster as the controller sees it: watched children and pods of ours, found by pool, role or broker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from greenfleet.api import GreenWorkerPool
from greenfleet.k8s import paths
from greenfleet.k8s.client import Client, Object
from greenfleet.k8s.reflector import Reflector, strip_managed_fields
from greenfleet.manifests import names
from greenfleet.manifests.exporter import measured_broker
from greenfleet.manifests.names import Role
from greenfleet.manifests.worker import roles_of

_SELECTOR = f"{names.MANAGED_BY}={names.MANAGER}"

_OUR_ANNOTATIONS = frozenset({names.THREADS_ANNOTATION, names.QUEUES_ANNOTATION})
_ALWAYS_SERVED = {
    "Deployment": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}
"""Children that are watched, so that drift is repaired at once. ConfigMaps are not among them
(controller.config_resync).
"""


class ClusterCache:
    """Local copies of our children and pods in some namespaces (none named: in all).

    `child_changed(namespace, pool or None)` is called when labels, owners or spec of a child changed (a Deployment's
    replicas apart), or when it disappeared; None stands for an exporter's child. `pod_changed(old, new)` is called for
    every pod.
    """

    def __init__(
        self,
        client: Client,
        namespaces: Sequence[str],
        child_changed: Callable[[str, str | None], None],
        pod_changed: Callable[[Object | None, Object | None], None],
    ) -> None:
        self._client = client
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._notify = child_changed
        self._notify_of_pod = pod_changed
        self._pods_of: dict[tuple[str, str, str], dict[str, Object]] = defaultdict(dict)
        self._children = {kind: self._reflect(version, kind) for kind, version in _ALWAYS_SERVED.items()}
        self._pods = [
            Reflector(client, paths.collection("v1", "Pod", namespace), _SELECTOR, self._on_pod, kept=pod_outline)
            for namespace in self._namespaces
        ]
        self.reflectors = [*(one for some in self._children.values() for one in some), *self._pods]
        """What has to run, and is needed before anything is reconciled."""

    def _reflect(self, api_version: str, kind: str) -> list[Reflector]:
        kept = strip_managed_fields if kind == "Deployment" else _outline
        return [
            Reflector(
                self._client, paths.collection(api_version, kind, namespace), _SELECTOR, self._on_child, kept=kept
            )
            for namespace in self._namespaces
        ]

    def add_kind(self, api_version: str, kind: str) -> list[Reflector]:
        """Watches one more kind of child, which not every cluster serves. Returns what has to run for it."""
        self._children[kind] = self._reflect(api_version, kind)
        return self._children[kind]

    @property
    def is_synced(self) -> bool:
        """Whether every first list is complete."""
        return all(reflector.synced.is_set() for reflector in self.reflectors)

    def child(self, kind: str, namespace: str, name: str) -> Object | None:
        """One child of a watched kind."""
        key = f"{namespace}/{name}"
        for reflector in self._children.get(kind, ()):
            if (found := reflector.get(key)) is not None:
                return found
        return None

    def deployment(self, namespace: str, name: str) -> Object | None:
        """One Deployment of ours."""
        return self.child("Deployment", namespace, name)

    def pods(self, namespace: str, pool: str, role: Role) -> list[Object]:
        """All pods of one fleet."""
        return list(self._pods_of[namespace, pool, role].values())

    def workers_of(self, pool: GreenWorkerPool) -> int:
        """How many workers a pool has, in all its roles."""
        return sum(len(self.pods(pool.namespace, pool.name, role)) for role in roles_of(pool))

    def exporter_pods(self, namespace: str, name: str) -> list[Object]:
        """All pods of one exporter."""
        return list(self._pods_of[namespace, name, Role.EXPORTER].values())

    def exporters(self, namespace: str | None) -> Iterator[tuple[str, str]]:
        """Namespace and identity of the brokers that there is an exporter for, in a namespace or (None) anywhere:
        whether a pool needs it or not.
        """
        for reflector in self._children["Deployment"]:
            for found in reflector.objects():
                there = found["metadata"]["namespace"]
                if namespace in (None, there) and (broker := measured_broker(found)):
                    yield there, broker

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        for pod, present in ((old, False), (new, True)):
            if pod is None:
                continue
            labels = pod["metadata"].get("labels") or {}
            owner = labels.get(names.POOL_LABEL) or labels.get("app.kubernetes.io/instance", "")
            group = (pod["metadata"]["namespace"], owner, labels.get(names.ROLE_LABEL, ""))
            if present:
                self._pods_of[group][pod["metadata"]["name"]] = pod
            else:
                self._pods_of[group].pop(pod["metadata"]["name"], None)
                if not self._pods_of[group]:
                    del self._pods_of[group]
        self._notify_of_pod(old, new)

    def _on_child(self, old: Object | None, new: Object | None) -> None:
        if old is not None and new is not None and _ours(old) == _ours(new):
            return
        some = new or old or {}
        # The old labels count: who takes our label off an object makes it disappear from this view.
        labels = (old or some)["metadata"].get("labels") or {}
        self._notify(some["metadata"]["namespace"], labels.get(names.POOL_LABEL))


def _outline(child: Object) -> Object:
    """Without status and managedFields, which make up most of an object and say nothing about its drift."""
    metadata = {
        name: child["metadata"].get(name)
        for name in ("name", "namespace", "uid", "resourceVersion", "labels", "ownerReferences")
    }
    return {"metadata": metadata, "spec": child.get("spec") or {}}


_POD_METADATA = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
_POD_STATUS = ("phase", "qosClass", "conditions", "initContainerStatuses", "containerStatuses")


def pod_outline(pod: Object) -> Object:
    """What somebody here asks of a pod. Whoever may create pods may put a megabyte into each, and our label on it."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    kept = {name: metadata[name] for name in _POD_METADATA if name in metadata}
    return {
        "metadata": {
            **kept,
            "annotations": {name: annotations[name] for name in _OUR_ANNOTATIONS & annotations.keys()},
        },
        "spec": {
            "nodeName": spec.get("nodeName"),
            **{
                kind: [{"name": one["name"], "resources": one.get("resources") or {}} for one in spec.get(kind) or ()]
                for kind in ("initContainers", "containers")
            },
        },
        "status": {name: status[name] for name in _POD_STATUS if name in status},
    }


def _ours(child: Object) -> Object:
    """What the reconciler decides about a child: not its status, not what the autoscaler writes."""
    metadata = child["metadata"]
    return {
        "labels": metadata.get("labels"),
        "ownerReferences": metadata.get("ownerReferences"),
        "spec": {key: value for key, value in (child.get("spec") or {}).items() if key != "replicas"},
    }


def is_available(deployment: Object | None) -> bool:
    """Whether at least one pod of the Deployment is ready."""
    return bool(deployment and (deployment.get("status") or {}).get("readyReplicas"))


def is_rolled_out(deployment: Object) -> bool:
    """Whether all pods of the Deployment are of its current template, and available."""
    spec, status = deployment["spec"], deployment.get("status") or {}
    wanted = spec.get("replicas", 1)
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == status.get("replicas", 0) == wanted
        and status.get("availableReplicas", 0) == wanted
    )


def owns_replicas(deployment: Object, manager: str) -> bool:
    """Whether `manager` owns `spec.replicas` in the Deployment's managedFields."""
    return any(
        entry.get("manager") == manager and "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
        for entry in deployment["metadata"].get("managedFields") or ()
    )
