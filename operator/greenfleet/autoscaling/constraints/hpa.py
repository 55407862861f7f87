"""`behavior` with the semantics of the HorizontalPodAutoscaler (`autoscaling/v2`, `horizontal.go`).

A policy allows a change of `value` pods or percent relative to the replicas at the start of its period, which is
today's replicas without what was added and with what was removed meanwhile. `Max` takes the most permissive policy,
`Min` the least, `Disabled` allows nothing.
"""

from __future__ import annotations

from math import ceil

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
    if not rules.policies:
        return float("inf")
    allowed = [_raised(policy, _at_start(policy, replicas, changes, now)) for policy in rules.policies]
    most = min(allowed) if rules.select_policy == "Min" else max(allowed)
    # The HPA never acts at zero; the step from zero to one is an activation, which policies do not limit.
    return max(most, 1 if replicas == 0 else replicas)


def lowest_allowed(rules: ScalingRules, replicas: int, changes: tuple[Change, ...], now: float) -> int:
    """The fewest replicas that `scaleDown` allows now."""
    if rules.select_policy == "Disabled":
        return replicas
    if not rules.policies:
        return 0
    allowed = [_lowered(policy, _at_start(policy, replicas, changes, now)) for policy in rules.policies]
    least = max(allowed) if rules.select_policy == "Min" else min(allowed)
    return min(replicas, max(0, least))


def _at_start(policy: Policy, replicas: int, changes: tuple[Change, ...], now: float) -> int:
    return replicas - sum(change.delta for change in changes if change.at > now - policy.period_seconds)


def _raised(policy: Policy, start: int) -> int:
    if policy.type == "Pods":
        return start + policy.value
    return ceil(start * (100 + policy.value) / 100)


def _lowered(policy: Policy, start: int) -> int:
    if policy.type == "Pods":
        return start - policy.value
    return int(start * (100 - policy.value) / 100)
