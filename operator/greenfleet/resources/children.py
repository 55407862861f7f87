"""The ordered list of a pool's children. One builder per object; the reconciler applies them from the top."""

from __future__ import annotations

from dataclasses import dataclass

from greenfleet.api import GROUP, KIND, VERSION, GreenWorkerPool
from greenfleet.resources.config import pool_config
from greenfleet.resources.disruption import disruption_budget
from greenfleet.resources.names import Role
from greenfleet.resources.pods import Manifest
from greenfleet.resources.worker import fleet_deployment


@dataclass(frozen=True, slots=True)
class Child:
    """One object to apply."""

    manifest: Manifest

    @property
    def is_deployment(self) -> bool:
        """Whether `replicas` has to be handed over between field managers."""
        return bool(self.manifest["kind"] == "Deployment")


def owner_reference(pool: GreenWorkerPool, *, controller: bool) -> Manifest:
    """The reference that lets the garbage collector clean up after the pool. An exporter has several, none controlling."""
    reference: Manifest = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": pool.name,
        "uid": pool.uid,
        "blockOwnerDeletion": False,
    }
    return {**reference, "controller": True} if controller else reference


def children_of_pool(
    pool: GreenWorkerPool, agent_image: str, agent_pull_policy: str, blocking_tasks: tuple[str, ...] = ()
) -> tuple[Child, ...]:
    """Everything that belongs to this pool alone; the exporter is shared and has its own builder."""
    children = [Child(pool_config(pool, blocking_tasks))]
    for role in (Role.EVENTLET, Role.PREFORK) if pool.spec.prefork is not None else (Role.EVENTLET,):
        children.append(Child(fleet_deployment(pool, role, agent_image, agent_pull_policy)))
        children.append(Child(disruption_budget(pool, role)))
    for child in children:
        child.manifest["metadata"]["ownerReferences"] = [owner_reference(pool, controller=True)]
    return tuple(children)
