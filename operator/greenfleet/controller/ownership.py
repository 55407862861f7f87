"""Whose an object is that has the name of one of ours. Pure.

Names are made from a pool's name, so that somebody else's object may have one already: a chart's, another team's, a
hand-written one. A server-side apply with force would take it over, and the pool's deletion would delete it.

An object is a pool's own if it says so by its owner reference (also of a deleted pool of the same name, which the
garbage collector has not cleaned up after yet), or by the label with the pool's name while nobody else controls it:
that is what `--cascade=orphan` leaves behind, and what drift of the owner reference looks like.
"""

from __future__ import annotations

from typing import Any

from greenfleet.api import GROUP, KIND, GreenWorkerPool
from greenfleet.manifests import Child, names
from greenfleet.manifests.names import Role
from greenfleet.status.stalled import StalledReason

_Object = dict[str, Any]

NAME_TAKEN = "NameTaken"


def is_pools_own(found: _Object, pool: str) -> bool:
    """Whether an object is, or was made for, the pool of this name."""
    owners = _owners(found)
    if any(_is_pool(owner) and owner["name"] == pool for owner in owners):
        return True
    return _labels(found).get(names.POOL_LABEL) == pool and not any(owner.get("controller") for owner in owners)


def is_owned_by(found: _Object, pool: GreenWorkerPool) -> bool:
    """Whether an object belongs to this very pool, and not to another one that had its name."""
    return any(owner["uid"] == pool.uid for owner in _owners(found))


def is_exporters_own(found: _Object, exporter: str) -> bool:
    """Whether an object is, or was made for, the queue exporter of this name, which several pools own and none
    controls.
    """
    owners = _owners(found)
    if any(owner.get("controller") for owner in owners):
        return False
    wanted = names.exporter_selector(exporter)
    return any(map(_is_pool, owners)) or wanted.items() <= _labels(found).items()


def taken_from_pool(child: Child, found: _Object, pool: GreenWorkerPool) -> StalledReason:
    """Why a pool cannot be made: an object of somebody else has the name of one of its own."""
    return StalledReason(
        NAME_TAKEN,
        f"metadata.name is {pool.name!r}, and the {child.kind} {child.name} that such a pool makes is there "
        "already and not its own "
        f"({_whose(found, names.POOL_LABEL, pool.name)}): give the pool another name, or remove that {child.kind}",
    )


def taken_from_exporter(child: Child, found: _Object, pool: GreenWorkerPool) -> StalledReason:
    """The same for the queue exporter of a broker."""
    field, name = pool.spec.broker.named_by
    return StalledReason(
        NAME_TAKEN,
        f"{field} is {name!r}, and the {child.kind} {child.name} of its queue "
        "exporter is there already and "
        f"not Greenfleet's ({_whose(found, names.ROLE_LABEL, Role.EXPORTER)}): remove that {child.kind}, or name "
        "another Secret",
    )


def _whose(found: _Object, label: str, value: str) -> str:
    owner = next((owner for owner in _owners(found) if owner.get("controller")), None)
    if owner is not None:
        return f"controlled by {owner['kind']} {owner['name']}"
    manager = _labels(found).get(names.MANAGED_BY)
    return f"managed by {manager}" if manager not in (None, names.MANAGER) else f"it has no label {label}={value}"


def _labels(found: _Object) -> dict[str, str]:
    return found["metadata"].get("labels") or {}


def _owners(found: _Object) -> list[_Object]:
    return found["metadata"].get("ownerReferences") or []


def _is_pool(owner: _Object) -> bool:
    return bool(owner["kind"] == KIND and str(owner["apiVersion"]).startswith(f"{GROUP}/"))
