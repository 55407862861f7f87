"""When the load run says that the operator grows."""

from __future__ import annotations

import pytest

from tests.faults.operator.load import AT_REST, SLACK, grown, left, medians, spread, too_few

CALM = {"rss_mib": 300.0, "descriptors": 60.0, "threads": 8.0, "tasks": 400.0}


def test_an_operator_that_keeps_its_size_has_not_grown() -> None:
    assert not grown([{name: value * (1 + 0.05 * (n % 2)) for name, value in CALM.items()} for n in range(120)])


@pytest.mark.parametrize("name", list(SLACK))
def test_whatever_is_much_larger_at_the_end_has_grown(name: str) -> None:
    samples = [{**CALM, name: CALM[name] * (1 + n / 40)} for n in range(120)]
    [found] = grown(samples)
    assert found.startswith(f"{name}: ")


def test_the_medians_are_those_of_the_second_quarter_and_of_the_last() -> None:
    samples = [{**CALM, "tasks": 100.0 * (1 + n // 30)} for n in range(120)]
    assert medians(samples)["tasks"] == (200.0, 400.0)


@pytest.mark.parametrize("name", list(AT_REST))
def test_what_stays_after_the_last_change_is_left(name: str) -> None:
    """A task for each change hides behind the pace of the changes while they go on."""
    assert not left(CALM, {**CALM, name: CALM[name] + AT_REST[name]})
    assert left(CALM, {**CALM, name: 1.1 * CALM[name] + AT_REST[name] + 1})[0].startswith(f"{name} at rest: ")


def test_half_as_many_tasks_again_have_grown_and_are_left() -> None:
    assert left({**CALM, "tasks": 118.0}, {**CALM, "tasks": 187.0}) == ["tasks at rest: 118 to 187"]
    assert grown([{**CALM, "tasks": 118.0 if n < 60 else 187.0} for n in range(120)]) == ["tasks: 118 to 187"]


def test_few_samples_tell_nothing() -> None:
    """As when the sampler has died: the second quarter and the last are one sample."""
    assert not grown([CALM, {**CALM, "tasks": 9999.0}])
    assert too_few([CALM]) == ["1 samples tell nothing"]
    assert too_few([CALM] * 3)
    assert not too_few([CALM] * 4)


def test_caches_stay() -> None:
    assert not left(CALM, {**CALM, "rss_mib": 2 * CALM["rss_mib"]})


def test_what_was_made_before_the_second_quarter_is_no_growth() -> None:
    """The first changes fill caches and open connections."""
    assert not grown([{name: value * (0.3 if n < 30 else 1) for name, value in CALM.items()} for n in range(120)])


@pytest.mark.parametrize(("pools", "namespaces", "each"), [(3000, 10, 300), (61, 10, 7), (5, 10, 1)])
def test_pools_are_spread_over_the_named_namespaces(pools: int, namespaces: int, each: int) -> None:
    assert spread(pools, namespaces) == {"pools_per_namespace": each, "namespaced": True}


def test_without_namespaces_the_operator_looks_after_the_whole_cluster() -> None:
    assert spread(3000, 0) == {}
