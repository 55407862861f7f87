"""The exposition format, checked with the parser of the official client."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from greenworker.monitoring.metrics import (
    OTHER,
    Counter,
    Distribution,
    Gauge,
    GaugeSet,
    Histogram,
    Registry,
    number,
    process_families,
)


def parsed(registry: Registry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(registry.render().decode())
        for sample in family.samples
    }


def test_every_series_has_the_common_labels() -> None:
    registry = Registry(pool="ns/feeds", role="eventlet", worker="pod-1")
    counter = Counter("greenworker_tasks_started_total", "Tasks started.", ["task"], 10)
    counter.add(2, "proj.fetch")
    registry.add(counter)
    registry.add(Gauge("greenworker_threads_limit", "Limit.", lambda: 7))
    common = (("pool", "ns/feeds"), ("role", "eventlet"))
    found = parsed(registry)
    assert found["greenworker_tasks_started_total", (*common, ("task", "proj.fetch"), ("worker", "pod-1"))] == 2
    assert found["greenworker_threads_limit", (*common, ("worker", "pod-1"))] == 7


@given(st.text(min_size=1))
def test_any_label_value_survives(value: str) -> None:
    registry = Registry(pool=value)
    gauges = GaugeSet("some_gauge", "Help.", ["queue"])
    gauges.values[value,] = 1
    registry.add(gauges)
    text = "".join(line for family in registry.families for line in family.lines(registry.common))
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert samples[0].labels == {"pool": value, "queue": value}


@given(st.lists(st.floats(min_value=0, max_value=1e5), max_size=50))
def test_histogram_counts_every_value_once(values: list[float]) -> None:
    registry = Registry()
    histogram = Histogram("wait_seconds", "Wait.", ["task"], 5)
    for value in values:
        histogram.child("a").observe(value)
    histogram.child("a")
    registry.add(histogram)
    found = parsed(registry)
    assert found["wait_seconds_count", (("task", "a"),)] == len(values)
    assert math.isclose(found["wait_seconds_sum", (("task", "a"),)], sum(values), rel_tol=1e-9, abs_tol=1e-9)
    for bound in histogram.bounds:
        bucket = found["wait_seconds_bucket", (("le", number(bound)), ("task", "a"))]
        assert bucket == sum(1 for value in values if value <= bound)


def test_names_beyond_the_limit_fold_into_other() -> None:
    counter = Counter("finished_total", "Finished.", ["task", "state"], 2)
    for name in ("a", "b", "c", "d"):
        counter.add(1, name, "SUCCESS")
    counter.add(1, "a", "FAILURE")
    assert {key: cell.value for key, cell in counter.children.items()} == {
        ("a", "SUCCESS"): 1,
        ("b", "SUCCESS"): 1,
        (OTHER, "SUCCESS"): 2,
        ("a", "FAILURE"): 1,
    }


def test_process_metrics_have_the_usual_names() -> None:
    registry = Registry()
    for family in process_families():
        registry.add(family)
    found = {name for name, _ in parsed(registry)}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"} <= found


def test_a_value_on_a_bound_belongs_to_that_bucket() -> None:
    distribution = Distribution((0.1, 1.0))
    for value in (0.1, 1.0, 1.1):
        distribution.observe(value)
    assert distribution.counts == [1, 1, 1]
