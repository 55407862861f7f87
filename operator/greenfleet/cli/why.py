"""`kubectl greenfleet why POOL`: the reasons of the last decisions, in plain sentences or as JSON.

They live in the leader's memory. kubectl fetches them with the user's own rights: the API server's proxy reaches a
Service in front of the operator's pods. A Role can name a Service; it cannot name pods. The Service picks any replica,
a standby answers 409, and the command asks again.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

from greenfleet.cli.arguments import located
from greenfleet.cli.kubectl import KubectlError, current_namespace, kubectl, kubectl_json
from greenfleet.cli.output import complain, say
from greenfleet.manifests.names import Role

_ROLE = "greenfleet-why"
"""What the chart calls its Role for this command, in a release named greenfleet."""
_SERVICE = "greenfleet-why"
"""What the chart calls its Service for this command in every release: a namespace has one operator, because it has one
Lease.
"""
_ATTEMPTS = 20
"""Two replicas: all attempts meet the standby once in a million commands."""


def run(pool: str, namespace: str | None, operator_namespace: str, *, as_json: bool, history: int) -> int:
    """Prints the reasons of one pool. Exit status 1 where they cannot be had."""
    try:
        said, name = located(pool, namespace)
        answer = fetch(said or current_namespace(), name, operator_namespace)
        lines = render(answer, history)
    except (KubectlError, ValueError) as error:
        complain(error)
        return 1
    except (KeyError, TypeError, AttributeError):
        complain(
            "the operator's answer is not one that this command understands: use the command of the operator's version"
        )
        return 1
    say(json.dumps(answer, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))
    return 0


def fetch(namespace: str, pool: str, operator_namespace: str) -> dict[str, Any]:
    """What the leader says about one pool. Raises KubectlError."""
    try:
        _check_that_one_leads(operator_namespace)
        service = f"/api/v1/namespaces/{operator_namespace}/services/{_SERVICE}:metrics/proxy"
        return _of_the_leader(f"{service}/api/v1/pools/{namespace}/{pool}/why")
    except KubectlError as error:
        if error.is_forbidden:
            raise KubectlError(
                f"{error}\n`greenfleet why` needs the rights of the Role {_ROLE} in namespace "
                f"{operator_namespace}, which the chart "
                f"brings: ask for kubectl -n {operator_namespace} create rolebinding NAME --role={_ROLE} --user=YOU"
            ) from None
        if error.is_unavailable:
            raise KubectlError(
                f"no replica of the operator in namespace {operator_namespace} is ready: kubectl -n "
                f"{operator_namespace} get pods"
            ) from None
        if not error.is_not_found:
            raise
        reason = _unknown(namespace, pool, operator_namespace, lacks_service=f'"{_SERVICE}"' in str(error))
    raise KubectlError(reason)


def _of_the_leader(path: str) -> dict[str, Any]:
    """The answer of the replica that leads. Raises KubectlError."""
    for _ in range(_ATTEMPTS):
        try:
            return kubectl_json("get", "--raw", path)
        except KubectlError as error:
            if not error.is_conflict:
                raise
    raise KubectlError("no replica of the operator leads at this moment: ask again in a few seconds")


def _check_that_one_leads(operator_namespace: str) -> None:
    try:
        lease = kubectl_json(
            "get", "--raw", f"/apis/coordination.k8s.io/v1/namespaces/{operator_namespace}/leases/greenfleet"
        )
    except KubectlError as error:
        if not error.is_not_found:
            raise
        raise KubectlError(
            f"no operator has ever led in namespace {operator_namespace}: install it, or say where it runs with "
            "--operator-namespace"
        ) from None
    if not (lease.get("spec") or {}).get("holderIdentity"):
        raise KubectlError(f"no operator leads in namespace {operator_namespace}: look at its pods")


def _unknown(namespace: str, pool: str, operator_namespace: str, *, lacks_service: bool) -> str:
    """Why nobody has an answer: there is no such pool, no way to the operator, or the pool is not one of its own."""
    if not kubectl("-n", namespace, "get", "greenworkerpools", pool, "-o", "name", "--ignore-not-found").strip():
        return f"there is no pool {namespace}/{pool}: look for it with kubectl get gwp -A, and say NAMESPACE/NAME or -n"
    if lacks_service:
        return (
            f"there is no Service {_SERVICE} in namespace {operator_namespace}, through which this command asks: "
            "install the chart of "
            "this version, or say where the operator runs with --operator-namespace"
        )
    return (
        f"the operator in namespace {operator_namespace} does not know the pool {namespace}/{pool}: either it has "
        "just started, or "
        f"{namespace} is not in the chart's scope.namespaces"
    )


def render(answer: dict[str, Any], history: int) -> list[str]:
    """The answer as lines of text."""
    first = [f"{answer['pool']}: {condition}" for condition in answer.get("conditions", ())]
    lines: list[str] = []
    for role, fleet in answer["fleets"].items():
        now = fleet["now"]
        if now is None:
            lines.append(f"{answer['pool']} ({role}): the scaling loop has not looked at this fleet yet")
            continue
        has = "process" if role == Role.PREFORK else "green thread"
        fleet_size = f"{_count(fleet['replicas'], 'worker')} × {_count(fleet['threads'], has)}"
        lines.append(f"{answer['pool']} ({role}): {fleet_size}")
        lines.append(f"  {now['summary']}")
        said = [step for step in now["adjustments"] if step.get("until") or not now["summary"].endswith(step["text"])]
        lines += [f"  · {_until(step)}{step['text']}" for step in said]
        lines += _table(now["inputs"])
        past = fleet["history"][-history:] if history else []
        lines += [f"  {_clock(why['at'])}  {why['binding']}: {why['summary']}" for why in reversed(past)]
    lines += [f"{answer['pool']}: {remark}" for remark in answer.get("remarks", ()) if lines]
    if not lines:
        lines.append(f"{answer['pool']}: nothing was decided yet; `kubectl describe gwp` says what the pool waits for")
    return first + lines


_SEEN = {
    "ready": ("messages in the broker", ""),
    "reserved": ("messages prefetched, not started", ""),
    "backlog": ("messages that wait, of both kinds", ""),
    "busy": ("tasks that run", ""),
    "unacked": ("messages unacked", ""),
    "scheduled": ("tasks held for an ETA", ""),
    "arrival_rate": ("arrivals", "messages/s"),
    "throughput": ("throughput", "tasks/s"),
    "runtime_seconds": ("run time of a task", "s"),
    "cpu_per_task_seconds": ("CPU of a task", "s"),
    "cores": ("CPU limit of a worker", "cores"),
    "efficiency": ("reached of the planned rate", "of 1"),
    "safe_threads": ("green threads that a worker bears", ""),
    "worker_rate": ("rate of one worker", "tasks/s"),
    "startup_seconds": ("start-up of a worker", "s"),
    "hub_utilisation": ("hub busy", "of 1"),
    "ready_workers": ("workers Ready", ""),
    "starting_workers": ("workers that start", ""),
    "leaving_workers": ("workers that drain", ""),
    "replicas": ("workers asked for now", ""),
    "threads": ("green threads in each worker", ""),
    "workers_for_rate": ("workers for the arrival rate", ""),
    "workers_for_deadline": ("workers for the deadline", ""),
}
"""What each input is called, and its unit; an amount has none."""


def _table(inputs: dict[str, float]) -> list[str]:
    """What was seen, a line each: name, value, unit. An operator of another version may send names that this table has
    not.
    """
    rows = [(*_SEEN.get(name, (name, "")), _short(value)) for name, value in inputs.items()]
    wide = max((len(label) for label, _, _ in rows), default=0)
    right = max((len(value) for _, _, value in rows), default=0)
    return ["  seen:", *(f"    {label:<{wide}}  {value:>{right}} {unit}".rstrip() for label, unit, value in rows)]


def _count(amount: int, noun: str) -> str:
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}{'es' if noun.endswith('s') else 's'}"


def _until(step: dict[str, Any]) -> str:
    return f"until {_clock(step['until'])}: " if step.get("until") else ""


def _clock(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S")


def _short(value: float) -> str:
    if abs(value) < 5e-6:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"
