"""A judgement on generated traces is worth as much as the traces: the same for everybody, wide, affordable, and not the
ones used for tuning.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenfleet.simulator import generator
from greenfleet.simulator.generator import HOLDOUT_SEEDS, TUNING_SEEDS, document, generate
from greenfleet.simulator.traces import Trace, arrivals, parse

TRACES = [generate(seed) for seed in TUNING_SEEDS]
RANGES: dict[str, tuple[tuple[float, float], Callable[[Trace], float]]] = {
    "run time": (generator.RUNTIME_SECONDS, lambda trace: trace.runtime),
    "CPU per task": (generator.CPU_SECONDS, lambda trace: trace.cpu),
    "cores": (generator.CORES, lambda trace: trace.cores),
    "start-up": (generator.STARTUP_SECONDS, lambda trace: trace.startup[0]),
}


@given(st.integers(0, 10**9))
@settings(max_examples=200)
def test_the_same_seed_makes_the_same_trace_and_survives_its_file(seed: int) -> None:
    trace = generate(seed)
    assert trace == generate(seed)
    assert trace == parse(json.loads(json.dumps(document(trace))))


def test_no_trace_is_in_two_sets() -> None:
    assert not set(TUNING_SEEDS) & set(HOLDOUT_SEEDS)
    bodies = [json.dumps({**document(generate(seed)), "name": ""}) for seed in (*TUNING_SEEDS, *HOLDOUT_SEEDS)]
    assert len(set(bodies)) == len(bodies) == 400


@pytest.mark.parametrize("quantity", RANGES)
def test_every_fifth_of_a_range_is_covered(quantity: str) -> None:
    (low, high), of = RANGES[quantity]
    fifths = Counter(min(4, int(5 * log(of(trace) / low) / log(high / low))) for trace in TRACES)
    assert all(low <= of(trace) <= high for trace in TRACES)
    assert min(fifths[fifth] for fifth in range(5)) >= 10, fifths


def test_every_kind_of_load_and_event_comes_in_numbers() -> None:
    """With fewer than ten traces of a kind, nobody can tell what a part is worth there."""
    kinds = Counter(kind for trace in TRACES for kind in trace.about.split("; "))
    assert len(kinds) == 7 + len(set(generator.EVENTS))
    assert min(kinds.values()) >= 10, kinds
    assert {trace.prefetch for trace in TRACES} == set(generator.PREFETCH)
    assert {trace.max_wait for trace in TRACES} == set(generator.MAX_WAITS)


def test_what_comes_out_is_what_the_description_says() -> None:
    for trace in TRACES:
        assert ("outage" in trace.about) == bool(trace.outages)
        assert ("from zero" in trace.about) == (trace.start_replicas == 0)
        assert ("downstream" in trace.about) == (trace.downstream is not None)
        assert ("short of CPU" in trace.about) == (trace.granted < 1)
        assert ("never become Ready" in trace.about) == (trace.stuck_pods > 0)
        assert ("burst" in trace.about) == any(segment.burst for segment in trace.arrivals)


def test_a_set_can_be_simulated_in_minutes_and_every_trace_has_messages() -> None:
    published = {trace.name: arrivals(trace, 1) for trace in TRACES}
    assert all(
        times and times[-1] < trace.seconds - trace.max_wait
        for trace, times in zip(TRACES, published.values(), strict=True)
    )
    assert max(len(times) for times in published.values()) < 1.1 * generator.MESSAGES_MOST
    assert sum(len(times) for times in published.values()) < 2_000_000
    assert sum(trace.seconds for trace in TRACES) < 200 * 900
