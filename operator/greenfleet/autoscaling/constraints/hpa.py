"""`behavior` with the semantics of the HorizontalPodAutoscaler (`autoscaling/v2`, `horizontal.go`).

A policy allows a change of `value` pods or percent relative to the replicas at the start of its period, which is
today's replicas without what was added and with what was removed meanwhile. `Max` takes the most permissive policy,
`Min` the least, `Disabled` allows nothing.
"""

from __future__ import annotations

from math import ceil, inf

from ..model import Policy, ScalingRules
from ..state import Change


def remember(changes: tuple[Change, ...], delta: int, now: float, *rules: ScalingRules) -> tuple[Change, ...]:
    """The changes with a new one, as long back as any policy looks."""
    longest = max((policy.period_seconds for rule in rules for policy in rule.policies), default=0)
    kept = tuple(change for change in changes if change.at > now - longest)
    return (*kept, Change(now, delta))[-512:] if delta and longest else kept


def highest_allowed(rules: ScalingRules, replicas: int, changes: tuple[Change, ...], now: float) -> float:
    """The most replicas that `scaleUp` allows now."""
    if rules.select_policy == "Disabled":
        return replicas
    allowed = [_changed(policy, 1, replicas, changes, now) for policy in rules.policies] or [inf]
    most = min(allowed) if rules.select_policy == "Min" else max(allowed)
    # The HPA never acts at zero; the step from zero to one is an activation, which policies do not limit.
    return max(most, 1 if replicas == 0 else replicas)


def lowest_allowed(rules: ScalingRules, replicas: int, changes: tuple[Change, ...], now: float) -> int:
    """The fewest replicas that `scaleDown` allows now."""
    if rules.select_policy == "Disabled":
        return replicas
    allowed = [_changed(policy, -1, replicas, changes, now) for policy in rules.policies] or [0]
    least = max(allowed) if rules.select_policy == "Min" else min(allowed)
    return min(replicas, max(0, int(least)))


def _changed(policy: Policy, sign: int, replicas: int, changes: tuple[Change, ...], now: float) -> float:
    """What the policy makes of the replicas at the start of its period."""
    start = replicas - sum(change.delta for change in changes if change.at > now - policy.period_seconds)
    if policy.type == "Pods":
        return start + sign * policy.value
    allowed = start * (100 + sign * policy.value) / 100
    return ceil(allowed) if sign > 0 else int(allowed)
