"""`behavior` means what it means in a HorizontalPodAutoscaler."""

from __future__ import annotations

from math import inf

from greenfleet.autoscaling.constraints import hpa as behavior
from greenfleet.autoscaling.model import Policy, ScalingRules
from greenfleet.autoscaling.state import Change

HPA_DEFAULT = ScalingRules((Policy("Percent", 100, 15), Policy("Pods", 4, 15)))


def test_no_policies_no_limit() -> None:
    assert behavior.highest_allowed(ScalingRules(), 3, (), 0.0) == inf
    assert behavior.lowest_allowed(ScalingRules(), 3, (), 0.0) == 0


def test_the_most_permissive_policy_decides_unless_min_is_selected() -> None:
    assert behavior.highest_allowed(HPA_DEFAULT, 2, (), 0.0) == 6
    assert behavior.highest_allowed(HPA_DEFAULT, 10, (), 0.0) == 20
    least = ScalingRules(HPA_DEFAULT.policies, "Min")
    assert behavior.highest_allowed(least, 2, (), 0.0) == 4
    assert behavior.highest_allowed(least, 10, (), 0.0) == 14


def test_what_was_added_within_the_period_counts() -> None:
    added = (Change(90.0, 4),)
    assert behavior.highest_allowed(ScalingRules((Policy("Pods", 4, 15),)), 6, added, 100.0) == 6
    assert behavior.highest_allowed(ScalingRules((Policy("Pods", 4, 15),)), 6, added, 106.0) == 10


def test_percent_rounds_up_on_the_way_up_and_truncates_on_the_way_down() -> None:
    assert behavior.highest_allowed(ScalingRules((Policy("Percent", 10, 60),)), 5, (), 0.0) == 6
    assert behavior.lowest_allowed(ScalingRules((Policy("Percent", 10, 60),)), 5, (), 0.0) == 4
    assert behavior.lowest_allowed(ScalingRules((Policy("Percent", 100, 60),)), 5, (), 0.0) == 0


def test_scale_down_takes_the_policy_that_removes_most_unless_min() -> None:
    rules = ScalingRules((Policy("Pods", 1, 60), Policy("Percent", 50, 60)))
    assert behavior.lowest_allowed(rules, 10, (), 0.0) == 5
    assert behavior.lowest_allowed(ScalingRules(rules.policies, "Min"), 10, (), 0.0) == 9


def test_disabled_allows_nothing() -> None:
    assert behavior.highest_allowed(ScalingRules((), "Disabled"), 3, (), 0.0) == 3
    assert behavior.lowest_allowed(ScalingRules((), "Disabled"), 3, (), 0.0) == 3


def test_activation_from_zero_is_not_a_matter_of_policies() -> None:
    assert behavior.highest_allowed(ScalingRules((Policy("Percent", 100, 15),)), 0, (), 0.0) == 1
