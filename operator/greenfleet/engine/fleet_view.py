"""The cluster as the engine sees it: watched Deployments and pods of ours, found by pool, role or broker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from greenfleet.kube import paths
from greenfleet.kube.client import Client, Object
from greenfleet.kube.reflector import Reflector
from greenfleet.resources import names
from greenfleet.resources.names import Role

_SELECTOR = f"{names.MANAGED_BY}={names.MANAGER}"


class FleetView:
    """Local copies of our Deployments and pods in some namespaces (none named: in all).

    `deployment_changed(namespace, pool or None)` is told when something other than a Deployment's replicas changed in its
    spec, or when it disappeared; None stands for an exporter.
    """

    def __init__(
        self, client: Client, namespaces: Sequence[str], deployment_changed: Callable[[str, str | None], None]
    ) -> None:
        self._notify = deployment_changed
        self._pods_of: dict[tuple[str, str, str], dict[str, Object]] = defaultdict(dict)
        self._deployments: list[Reflector] = []
        self._pods: list[Reflector] = []
        for namespace in namespaces or (None,):
            deployments = paths.collection("apps/v1", "Deployment", namespace)
            self._deployments.append(Reflector(client, deployments, _SELECTOR, self._on_deployment))
            self._pods.append(Reflector(client, paths.collection("v1", "Pod", namespace), _SELECTOR, self._on_pod))

    @property
    def reflectors(self) -> list[Reflector]:
        """What has to run."""
        return [*self._deployments, *self._pods]

    @property
    def is_synced(self) -> bool:
        """Whether every first list is complete."""
        return all(reflector.synced.is_set() for reflector in self.reflectors)

    def deployment(self, namespace: str, name: str) -> Object | None:
        """One Deployment of ours."""
        key = f"{namespace}/{name}"
        return next((found for reflector in self._deployments if (found := reflector.get(key)) is not None), None)

    def pods(self, namespace: str, pool: str, role: Role) -> list[Object]:
        """All pods of one fleet."""
        return list(self._pods_of[namespace, pool, role].values())

    def exporter_pods(self, namespace: str, name: str) -> list[Object]:
        """All pods of one exporter."""
        return list(self._pods_of[namespace, name, Role.EXPORTER].values())

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

    def _on_deployment(self, old: Object | None, new: Object | None) -> None:
        if old is not None and new is not None and _without_replicas(old) == _without_replicas(new):
            return
        some = new or old or {}
        self._notify(some["metadata"]["namespace"], (some["metadata"].get("labels") or {}).get(names.POOL_LABEL))


def _without_replicas(deployment: Object) -> Object:
    return {key: value for key, value in deployment["spec"].items() if key != "replicas"}


def is_available(deployment: Object | None) -> bool:
    """Whether at least one pod of the Deployment is ready."""
    return bool(deployment and (deployment.get("status") or {}).get("readyReplicas"))


def owns_replicas(deployment: Object, manager: str) -> bool:
    """Whether `manager` owns `spec.replicas` in the Deployment's managedFields."""
    return any(
        entry.get("manager") == manager and "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
        for entry in deployment["metadata"].get("managedFields") or ()
    )
