"""`greenfleet wait`: until an operator leads and the pools are Ready. What `helm test` runs, in the operator's own
image.

Needs `list` on pools (and `get` on the one that is named) and `get` on the operator's Lease; nothing else is read and
nothing is written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from greenfleet.cli.arguments import located
from greenfleet.cli.output import complain, say
from greenfleet.k8s import paths
from greenfleet.k8s.client import (
    ApiError,
    Client,
    ForbiddenError,
    NotFoundError,
    TransientError,
    connect,
    current_namespace,
)

Object = dict[str, Any]

_PERIOD_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to wait for."""

    pool: str = ""
    """`name` or `namespace/name`; empty: every pool that there is."""
    namespaces: Sequence[str] = ()
    """Where to look for pools; empty: everywhere."""
    operator_namespace: str = "greenfleet-system"
    lease: str = "greenfleet"


async def run(wanted: Wanted, timeout_seconds: float, kubeconfig: str | None) -> int:
    """Exit status 0 as soon as everything is there, 1 with what is missing when the time is over."""
    try:
        wanted = _placed(wanted, kubeconfig)
        client = await connect(kubeconfig)
    except (ApiError, ValueError) as error:
        complain(error)
        return 1
    deadline = time.monotonic() + timeout_seconds
    said: list[str] = []
    try:
        while True:
            missing, pools = await _look(client, wanted)
            if not missing:
                break
            if missing != said:
                say("\n".join(missing))
                said = missing
            if time.monotonic() > deadline:
                complain(f"not ready within {timeout_seconds:g} s")
                return 1
            await asyncio.sleep(_PERIOD_SECONDS)
    except ForbiddenError as error:
        complain(f"{error}\n{_rights(wanted)}")
        return 1
    except ApiError as error:
        complain(error)
        return 1
    finally:
        await client.close()
    say(f"ready: {wanted.pool or f'the operator, and {found(pools, wanted.namespaces)}'}")
    return 0


def _placed(wanted: Wanted, kubeconfig: str | None) -> Wanted:
    """With a pool that has its namespace. Raises ValueError where two are named."""
    if not wanted.pool:
        return wanted
    before = wanted.pool.rpartition("/")[0]
    places = {before} if before in wanted.namespaces else set(wanted.namespaces)
    if len(places) > 1:
        raise ValueError(f"-n names {len(places)} namespaces for the one pool {wanted.pool}: name one")
    namespace, name = located(wanted.pool, next(iter(places), None))
    return replace(wanted, pool=f"{namespace or current_namespace(kubeconfig)}/{name}")


def _rights(wanted: Wanted) -> str:
    """What an administrator has to give."""
    where = wanted.pool.partition("/")[0] or " and ".join(wanted.namespaces) or "all namespaces"
    return (
        f"`greenfleet wait` needs the Role greenfleet-why in namespace {wanted.operator_namespace}, which the "
        "chart brings, and the "
        f"ClusterRole view in {where}: ask for bindings to both"
    )


def found(pools: int, namespaces: Sequence[str]) -> str:
    """How many pools are Ready, and where. That there is none is said, for the namespace may be misspelt."""
    count = {0: "there is no pool", 1: "the one pool"}.get(pools, f"all {pools} pools")
    return f"{count} in {' and '.join(namespaces)}" if namespaces else count


async def _look(client: Client, wanted: Wanted) -> tuple[list[str], int]:
    """One sentence for each thing that is not there yet, and the number of pools."""
    try:
        lease = await client.get(
            f"{paths.collection('coordination.k8s.io/v1', 'Lease', wanted.operator_namespace)}/{wanted.lease}"
        )
        pools = await _pools(client, wanted)
    except NotFoundError as error:
        return [f"waiting: {error}"], 0
    except TransientError as error:
        return [f"waiting for the API server: {error}"], 0
    leads = [] if is_held(lease, datetime.now(UTC)) else ["waiting: no operator holds the Lease"]
    return leads + [sentence for pool in pools if (sentence := unready(pool))], len(pools)


async def _pools(client: Client, wanted: Wanted) -> list[Object]:
    if wanted.pool:
        return [await client.get(paths.pool(*wanted.pool.split("/", 1)))]
    pools: list[Object] = []
    for namespace in wanted.namespaces or (None,):
        listed = await client.get(paths.pools(namespace))
        pools += listed["items"]
    return pools


def is_held(lease: Object, now: datetime) -> bool:
    """Somebody renewed this Lease within its own duration."""
    spec = lease.get("spec") or {}
    renewed = spec.get("renewTime")
    if not spec.get("holderIdentity") or not renewed:
        return False
    age = now - datetime.fromisoformat(renewed)
    return age < timedelta(seconds=spec.get("leaseDurationSeconds", 15))


def unready(pool: Object) -> str:
    """Why this pool is not Ready in its present generation; empty if it is."""
    metadata, status = pool["metadata"], pool.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    name = f"{metadata['namespace']}/{metadata['name']}"
    ready = conditions.get("Ready")
    if ready is None or status.get("observedGeneration") != metadata["generation"]:
        return f"waiting: the operator has not looked at {name} yet"
    if ready["status"] == "True":
        return ""
    stalled = conditions.get("Stalled", {})
    shown = stalled if stalled.get("status") == "True" else ready
    return f"waiting: {name} is not Ready ({shown['reason']}): {shown['message']}"
