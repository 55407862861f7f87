"""The ordered list of a pool's children. One builder per object; the reconciler applies them from the top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greenfleet.api import API_VERSION, KIND, GreenWorkerPool
from greenfleet.manifests import names
from greenfleet.manifests.config import pool_config
from greenfleet.manifests.disruption import disruption_budget
from greenfleet.manifests.monitor import API_VERSION as MONITOR_API_VERSION
from greenfleet.manifests.monitor import Monitoring, pool_monitor
from greenfleet.manifests.names import Role
from greenfleet.manifests.network import pool_network_policy
from greenfleet.manifests.pods import USUAL, Manifest, PodDefaults
from greenfleet.manifests.worker import fleet_deployment, roles_of


@dataclass(frozen=True, slots=True)
class Child:
    """One object to apply."""

    manifest: Manifest

    @property
    def kind(self) -> str:
        """Such as `Deployment`."""
        return str(self.manifest["kind"])

    @property
    def name(self) -> str:
        """The object's own name."""
        return str(self.manifest["metadata"]["name"])

    @property
    def is_deployment(self) -> bool:
        """Whether `replicas` has to be handed over between field managers."""
        return bool(self.manifest["kind"] == "Deployment")


def owner_reference(pool: GreenWorkerPool, *, controller: bool) -> Manifest:
    """The reference that lets the garbage collector clean up after the pool. An exporter has several, none
    controlling.
    """
    reference: Manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": pool.name,
        "uid": pool.uid,
        "blockOwnerDeletion": False,
    }
    return {**reference, "controller": True} if controller else reference


def children_of_pool(
    pool: GreenWorkerPool,
    agent_image: str,
    agent_pull_policy: str,
    blocking_tasks: tuple[str, ...] = (),
    monitoring: Monitoring | None = None,
    *,
    agent_pull_secrets: Sequence[str] = (),
    defaults: PodDefaults = USUAL,
) -> tuple[Child, ...]:
    """Everything that belongs to this pool alone; the exporter is shared and has its own builder."""
    children = [Child(pool_config(pool, blocking_tasks))]
    if (policy := pool_network_policy(pool)) is not None:
        children.append(Child(policy))  # before the workers that it is for
    if monitoring is not None:
        children.append(Child(pool_monitor(pool.name, pool.namespace, monitoring)))
    for role in roles_of(pool):
        deployment = fleet_deployment(pool, role, agent_image, agent_pull_policy, agent_pull_secrets, defaults=defaults)
        children.append(Child(deployment))
        children.append(Child(disruption_budget(pool, role)))
    for child in children:
        child.manifest["metadata"]["ownerReferences"] = [owner_reference(pool, controller=True)]
    return tuple(children)


def optional_children(pool: GreenWorkerPool) -> tuple[tuple[str, str, str], ...]:
    """API version, kind and name of what a pool may have had and need not have now."""
    companion, shared = names.fleet_name(pool.name, Role.PREFORK), names.config_name(pool.name)
    return (
        ("apps/v1", "Deployment", companion),
        ("policy/v1", "PodDisruptionBudget", companion),
        ("networking.k8s.io/v1", "NetworkPolicy", shared),
        (MONITOR_API_VERSION, "PodMonitor", shared),
    )


def pool_config_child(pool: GreenWorkerPool, blocking_tasks: tuple[str, ...]) -> Child:
    """Only the ConfigMap: what no watch shows is applied again more often than the rest."""
    child = Child(pool_config(pool, blocking_tasks))
    child.manifest["metadata"]["ownerReferences"] = [owner_reference(pool, controller=True)]
    return child
