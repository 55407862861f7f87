"""When the load run says that the operator grows."""

from __future__ import annotations

import pytest

from tests.faults.operator.load import SLACK, grown, spread

CALM = {"rss_mib": 300.0, "descriptors": 60.0, "threads": 8.0, "tasks": 400.0}


def test_an_operator_that_keeps_its_size_has_not_grown() -> None:
    assert not grown([{name: value * (1 + 0.05 * (n % 2)) for name, value in CALM.items()} for n in range(120)])


@pytest.mark.parametrize("name", list(SLACK))
def test_whatever_is_much_larger_at_the_end_has_grown(name: str) -> None:
    samples = [{**CALM, name: CALM[name] * (1 + n / 40)} for n in range(120)]
    [found] = grown(samples)
    assert found.startswith(f"{name}: ")


def test_what_was_made_before_the_second_quarter_is_no_growth() -> None:
    """The first changes fill caches and open connections."""
    assert not grown([{name: value * (0.3 if n < 30 else 1) for name, value in CALM.items()} for n in range(120)])


@pytest.mark.parametrize(("pools", "namespaces", "each"), [(3000, 10, 300), (61, 10, 7), (5, 10, 1)])
def test_pools_are_spread_over_the_named_namespaces(pools: int, namespaces: int, each: int) -> None:
    assert spread(pools, namespaces) == {"pools_per_namespace": each, "namespaced": True}


def test_without_namespaces_the_operator_looks_after_the_whole_cluster() -> None:
    assert spread(3000, 0) == {}
