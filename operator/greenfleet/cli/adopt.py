"""`kubectl greenfleet adopt DEPLOYMENT`: a pool takes the place of hand-written workers, shown first, done with
`--yes`.

The two fleets overlap: the pool is created and has a worker that consumes before the first old worker is asked to
leave. Old workers get SIGTERM as in any scale-in, so that Celery finishes what runs, within the grace that their pods
have. The old Deployment stays, at zero, for the way back.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import yaml

from greenfleet.cli.adoption import ADOPTED_ANNOTATION, Adoption, Wishes, difference, plan
from greenfleet.cli.arguments import located
from greenfleet.cli.kubectl import KubectlError, current_namespace, kubectl, kubectl_json
from greenfleet.cli.output import legible

Object = dict[str, Any]

_POLL_SECONDS = 1.0
_RIGHTS = "\n`greenfleet adopt` needs the ClusterRole edit in the Deployment's namespace: ask for a RoleBinding to it"


def run(deployment: str, namespace: str | None, wishes: Wishes, *, yes: bool, timeout_seconds: float) -> int:
    """Shows the pool or, with `--yes`, brings it in. Exit status 1 where something stands in the way."""
    try:
        said, name = located(deployment, namespace)
        return _run(said or current_namespace(), name, wishes, timeout_seconds if yes else None)
    except (KubectlError, ValueError) as error:
        _say(f"greenfleet: {error}{_RIGHTS if isinstance(error, KubectlError) and error.is_forbidden else ''}")
        return 1


def _run(namespace: str, old: str, wishes: Wishes, timeout_seconds: float | None) -> int:
    """Without a time-out it only shows what it would do."""
    deployment = _get(namespace, "deployment", old)
    adoption = plan(deployment, wishes)
    scalers = _scalers(namespace, old)
    adoption.obstacles += scalers
    replicas = deployment["spec"].get("replicas", 1)
    if not replicas and (successor := _successor(namespace, old)) is not None:
        return _again(namespace, deployment, successor, scalers, timeout_seconds)
    if not adoption.obstacles:  # an incomplete manifest must not end up in a pipe
        print(yaml.safe_dump(adoption.pool, sort_keys=False, width=120, allow_unicode=True), end="")
    _explain(adoption)
    if adoption.obstacles:
        return 1
    name = adoption.pool["metadata"]["name"]
    existing = _find(namespace, "greenworkerpool", name)
    if existing is not None and _adopted_from(existing) != old:
        raise KubectlError(f"there is a GreenWorkerPool {namespace}/{name} already: choose another name with --name")
    if existing is None and (successor := _successor(namespace, old)) is not None:
        before = successor["metadata"]["name"]
        raise KubectlError(f"the pool {before} has begun to take the place of Deployment {old}: say --name {before}")
    _say("\n".join(["", "What changes for the pods:", *difference(deployment, adoption.pool), ""]))
    kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(adoption.pool))
    if timeout_seconds is None:
        _say(
            f"The API server accepts this pool. Nothing was changed. With --yes: the pool {name} is created, gets "
            "ready, and then "
            f"Deployment {old} is scaled from {replicas} to 0."
        )
        return 0
    return _carry_out(namespace, deployment, adoption.pool, timeout_seconds)


def _carry_out(namespace: str, deployment: Object, pool: Object, timeout_seconds: float) -> int:
    old, name = deployment["metadata"]["name"], pool["metadata"]["name"]
    replicas = deployment["spec"].get("replicas", 1)
    back = (
        f"kubectl -n {namespace} scale deployment/{old} --replicas={replicas} && kubectl -n {namespace} delete "
        f"gwp {name}"
    )
    kubectl("apply", "--server-side", "--field-manager=kubectl-greenfleet", "-f", "-", stdin=json.dumps(pool))
    _say(f"1. The pool {name} is created. Both fleets consume the queues now.")
    wanted = pool["spec"]["replicas"]["min"]
    if not _await(lambda: _is_ready(_get(namespace, "greenworkerpool", name), wanted), timeout_seconds):
        said = _condition(_get(namespace, "greenworkerpool", name), "Ready")
        raise KubectlError(
            f"the pool {name} did not get ready within {timeout_seconds:g} s: "
            f"{said.get('message', 'the operator says nothing')} "
            f"Deployment {old} was left as it is. Mend the cause and run this again, or: kubectl -n {namespace} "
            f"delete gwp {name}"
        )
    _say(f"2. It is ready{f', and {wanted} worker of it consumes' if wanted else ''}.")
    kubectl("-n", namespace, "scale", f"deployment/{old}", "--replicas=0")
    _say(f"3. The {replicas} workers of Deployment {old} finish what they run, and leave.")
    _await_gone(namespace, deployment, timeout_seconds)
    _say(
        f"4. They are gone. Deployment {old} is kept at 0: delete it when you are content, and take it out of what "
        "applies "
        f"it (Helm, Flux, Argo CD).\nThe way back: {back}"
    )
    return 0


def _again(namespace: str, deployment: Object, pool: Object, scalers: list[str], timeout_seconds: float | None) -> int:
    """A pool has taken the Deployment's place before. A Deployment at 0 says nothing of how large the pool should be:
    the pool stays as it is. Exit status 1 without `--yes`, for the manifest that was asked for is not printed. Raises
    KubectlError if the pool is not Ready, or old workers do not leave.
    """
    old, name = deployment["metadata"]["name"], pool["metadata"]["name"]
    if scalers:
        _explain(Adoption(obstacles=scalers))
        return 1
    anew = (
        f"To begin anew: kubectl -n {namespace} scale deployment/{old} --replicas=N && kubectl -n {namespace} delete "
        f"gwp {name}, then run this again"
    )
    if not _is_ready(pool, 0):
        said = _condition(pool, "Ready").get("message", "the operator says nothing.")
        raise KubectlError(f"the pool {name} has the place of Deployment {old}, and is not Ready: {said} {anew}")
    _say(
        f"Deployment {old} is at 0, and the pool {name} has taken its place: nothing is changed, and no manifest is "
        f"printed (kubectl -n {namespace} get gwp {name} -o yaml). Change the pool itself from now on. {anew}"
    )
    if timeout_seconds is None:
        return 1
    _await_gone(namespace, deployment, timeout_seconds)
    return 0


def _await_gone(namespace: str, deployment: Object, seconds: float) -> None:
    """Raises KubectlError where old workers still run after so many seconds."""
    old = deployment["metadata"]["name"]
    if not _await(lambda: not _get(namespace, "deployment", old).get("status", {}).get("replicas"), seconds) or not (
        _await(lambda: not _pods(namespace, deployment), seconds)
    ):
        raise KubectlError(f"old workers still run after {seconds:g} s: look at the pods of Deployment {old}")


def _explain(adoption: Adoption) -> None:
    for title, lines in (("Good to know", adoption.notes), ("In the way", adoption.obstacles)):
        if lines:
            _say("\n".join(["", f"{title}:", *(f"  - {line}" for line in lines)]))


def _scalers(namespace: str, deployment: str) -> list[str]:
    """Who would scale the Deployment up again. KEDA works through an HPA too."""
    found = kubectl_json("-n", namespace, "get", "hpa", "-o", "json")["items"]
    return [
        f"HorizontalPodAutoscaler {one['metadata']['name']} scales the Deployment, and would bring its workers "
        "back: delete it (or the "
        "ScaledObject that made it); spec.scaling takes its place"
        for one in found
        if (one["spec"]["scaleTargetRef"]["kind"], one["spec"]["scaleTargetRef"]["name"]) == ("Deployment", deployment)
    ]


def _is_ready(pool: Object, workers: int) -> bool:
    status = pool.get("status") or {}
    current = status.get("observedGeneration") == pool["metadata"]["generation"]
    return current and _condition(pool, "Ready").get("status") == "True" and status.get("readyReplicas", 0) >= workers


def _condition(pool: Object, kind: str) -> Object:
    conditions = (pool.get("status") or {}).get("conditions") or ()
    return next((dict(one) for one in conditions if one["type"] == kind), {})


def _adopted_from(pool: Object) -> str | None:
    return (pool["metadata"].get("annotations") or {}).get(ADOPTED_ANNOTATION)


def _successor(namespace: str, old: str) -> Object | None:
    """The pool that took, or began to take, the place of this Deployment, whatever its name."""
    pools = kubectl_json("-n", namespace, "get", "greenworkerpools", "-o", "json")["items"]
    return next((dict(pool) for pool in pools if _adopted_from(pool) == old), None)


def _pods(namespace: str, deployment: Object) -> list[Object]:
    labels = deployment["spec"]["selector"].get("matchLabels") or {}
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    return list(kubectl_json("-n", namespace, "get", "pods", "-l", selector, "-o", "json")["items"])


def _get(namespace: str, kind: str, name: str) -> Object:
    return kubectl_json("-n", namespace, "get", kind, name, "-o", "json")


def _find(namespace: str, kind: str, name: str) -> Object | None:
    found = kubectl("-n", namespace, "get", kind, name, "-o", "json", "--ignore-not-found")
    return dict(json.loads(found)) if found.strip() else None


def _await(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _say(text: str) -> None:
    print(legible(text), file=sys.stderr, flush=True)
