"""Green threads never grow on run time that they inflated themselves, whatever the tasks and the load are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from greenfleet.simulator.autoscalers import autoscaler_named
from greenfleet.simulator.run import simulate
from greenfleet.simulator.traces import Segment, Trace

SECONDS = 240.0


def steady(runtime: float, cpu: float, cores: float, workers: float, lag: float = 0.002) -> Trace:
    """A constant load of so many `workers` whose cores are full; tasks wait for the core of their own worker."""
    return Trace(
        name="own-wait",
        seconds=SECONDS,
        arrivals=(Segment(at=0.0, rate=workers * cores / cpu),),
        runtime=runtime,
        cpu=cpu,
        cores=cores,
        hub="core",
        hub_lag=lag,
        start_replicas=3,
    )


@settings(max_examples=6)
@given(
    runtime=st.sampled_from([0.5, 2.0, 5.0]),
    cpu=st.sampled_from([0.02, 0.05, 0.08]),
    cores=st.sampled_from([0.25, 0.95]),
    workers=st.sampled_from([0.9, 1.9, 2.9]),
)
def test_green_threads_never_grow_on_run_time_that_they_inflated_themselves(
    runtime: float, cpu: float, cores: float, workers: float
) -> None:
    """A worker is full with S/k·cores green threads. With chance and a burst at the start it gets at most as many more,
    and 14 where ten are the least. Of all 54 cases six get more than half as many more, each at 90 % of the core.
    """
    run = simulate(steady(runtime, cpu, cores, workers), autoscaler_named("greenfleet"), 1)
    late = [second for second in run.seconds if second.at > SECONDS / 2]
    full = cores * runtime / cpu + 1
    for second in late:
        assert second.threads <= max(14, 2 * full) * max(1, second.ready)


def test_a_constant_load_keeps_its_run_time() -> None:
    """60 tasks a second of 2 s of I/O and 50 ms of CPU, on three workers of 0.95 cores: run time had trebled for
    nothing.
    """
    run = simulate(steady(2.0, 0.05, 0.95, 60 * 0.05 / 0.95), autoscaler_named("greenfleet"), 1)
    assert run.figures.runtime_inflation <= 1.3
    assert run.figures.violated_seconds == 0
