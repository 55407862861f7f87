"""From Prometheus' answers to samples: whose they are, which one counts, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest

from greenfleet.autoscaling.model import QueueSample, WorkerCounters, WorkerSample
from greenfleet.prometheus import sources
from greenfleet.prometheus.collect import Depths, read_depths, read_waiting, read_workers
from greenfleet.prometheus.series import Series
from greenfleet.settings import Source

BROKER = "shop/broker/url"


NAMES = {
    "ready": "greenfleet_queue_messages_ready",
    "unacked": "greenfleet_queue_messages_unacked",
    "up": "greenfleet_queue_up",
    "error": "greenfleet_queue_broker_error",
    "missing": "greenfleet_queue_missing",
}


def depth(
    part: str, value: float, *, at: float = 100.0, broker: str = BROKER, namespace: str | None = "shop", **labels: str
) -> Series:
    target = {} if namespace is None else {"namespace": namespace}
    queue = {} if part in ("up", "error") else {"queue": "feeds"}
    return Series(
        {"__name__": NAMES[part], "broker": broker, "pod": "exporter-1", **queue, **target, **labels}, value, at
    )


def samples(found: Depths, scope: str = BROKER) -> list[QueueSample]:
    return [one.sample for one in found.queues[scope, "feeds"]]


def depths(*series: Series, verify: bool = True) -> Depths:
    return read_depths(series, sources.greenfleet_depth(60), verify_namespace=verify)


def test_a_queue_has_its_depth_its_unacknowledged_messages_and_the_time_of_the_scrape() -> None:
    found = depths(depth("ready", 7, at=100.5), depth("unacked", 3), depth("up", 1))
    [sample] = samples(found)
    assert (sample.ready, sample.unacked, sample.at) == (7, 3, 100.5)
    assert not found.down
    assert not found.namespace_mismatch


def test_unacknowledged_messages_without_a_depth_are_no_sample() -> None:
    assert not depths(depth("unacked", 2), depth("up", 1)).queues


def test_another_namespaces_target_cannot_speak_for_a_broker() -> None:
    found = depths(depth("ready", 0, namespace="evil"))
    assert not found.queues
    assert found.namespace_mismatch == {"shop"}, "whoever it spoke for can see it"
    assert found.spoke_for_others == {"evil"}, "and so can who did it"


def test_a_target_without_a_namespace_label_is_not_believed() -> None:
    found = depths(depth("ready", 0, namespace=None))
    assert not found.queues
    assert found.namespace_mismatch == {"shop"}
    assert not found.spoke_for_others, "nobody is in that namespace"


def test_a_namespace_is_compared_as_a_whole() -> None:
    for broker in ("shop2/broker/url", "sho/broker/url", "/shop/url", ""):
        assert not depths(depth("ready", 0, broker=broker)).queues


def test_the_administrator_can_switch_the_check_off() -> None:
    found = depths(depth("ready", 4, namespace=None), verify=False)
    assert samples(found)[0].ready == 4


def test_what_waits_is_named_by_broker_and_queue_and_a_foreign_target_wakes_nobody() -> None:
    said = (depth("ready", 3), depth("ready", 5, namespace="evil", broker="shop/other/url"))
    query = sources.greenfleet_depth(60)
    assert read_waiting(said, query, verify_namespace=True) == {(BROKER, "feeds")}
    assert len(read_waiting(said, query, verify_namespace=False)) == 2


def test_what_waits_in_a_source_without_brokers_wakes_its_own_namespace_or_everybody() -> None:
    query = sources.selected_depth(Source(selector="depth", queue_label="name", namespaces=["monitoring"]), 60)
    said = [said_elsewhere(1, namespace=namespace) for namespace in ("shop", "monitoring")]
    assert read_waiting(said, query, verify_namespace=True) == {("shop", "feeds"), ("", "feeds")}


def test_a_foreign_target_cannot_call_a_broker_down() -> None:
    assert not depths(depth("up", 0, namespace="evil")).down


def test_a_broker_is_down_only_if_none_of_its_exporters_reaches_it() -> None:
    assert depths(depth("up", 0)).down == {BROKER}
    assert not depths(depth("up", 0), depth("up", 1, pod="exporter-2")).down
    assert depths(depth("up", math.nan)).down == {BROKER}


def test_the_newest_kind_of_error_counts_and_only_of_a_broker_that_is_down() -> None:
    old, new = depth("error", 1, at=98, reason="TimedOut"), depth("error", 1, at=100, reason="TlsFailed")
    assert depths(depth("up", 0), new, old).errors == {BROKER: "TlsFailed"}
    assert depths(depth("up", 0)).errors == {}, "an exporter of before says no kind"
    assert depths(depth("up", 1), old).errors == {}
    assert depths(depth("up", 0), depth("error", 0, reason="TimedOut")).errors == {}
    assert depths(depth("up", 0), depth("error", 1, reason="TlsFailed", namespace="evil")).errors == {}


def test_a_queue_is_missing_until_a_younger_sample_no_longer_says_so() -> None:
    assert depths(depth("up", 1), depth("ready", 0), depth("missing", 1)).missing == {(BROKER, "feeds")}
    assert not depths(depth("up", 1), depth("ready", 0, at=102), depth("missing", 1)).missing, "it has been created"
    assert not depths(depth("up", 1), depth("ready", 0)).missing, "Redis, or an exporter of before"
    assert not depths(depth("ready", 0), depth("missing", 1, namespace="evil")).missing


def test_while_an_exporter_rolls_over_the_younger_sample_counts() -> None:
    found = depths(depth("ready", 5, at=100), depth("ready", 9, at=101, pod="exporter-2"))
    [sample] = samples(found)
    assert (sample.ready, sample.at) == (9, 101)


def test_one_target_that_says_two_depths_at_once_contradicts_itself() -> None:
    found = depths(depth("ready", 0, series="a"), depth("ready", 500, series="b"))
    assert sorted(sample.ready for sample in samples(found)) == [0, 500]


def said_elsewhere(value: float, *, namespace: str | None = "monitoring", **labels: str) -> Series:
    """A depth of a source that names no broker."""
    target = {} if namespace is None else {"namespace": namespace}
    return Series({"__name__": "depth", "name": "feeds", **target, **labels}, value, 100.0)


def read_elsewhere(*series: Series, namespaces: Sequence[str] = (), verify: bool = True) -> Depths:
    query = sources.selected_depth(Source(selector="depth", queue_label="name", namespaces=list(namespaces)), 60)
    return read_depths(series, query, verify_namespace=verify)


def test_other_sources_keep_every_target_so_that_the_autoscaler_sees_contradictions() -> None:
    answer = [said_elsewhere(value, instance=instance) for instance, value in (("a", 1.0), ("b", 500.0))]
    found = read_elsewhere(*answer, namespaces=["monitoring"])
    assert sorted(sample.ready for sample in samples(found, "")) == [1, 500]


def test_other_sources_name_no_broker_whatever_their_labels_say() -> None:
    found = read_elsewhere(said_elsewhere(3, broker="shop/broker/url"), namespaces=["monitoring"])
    assert list(found.queues) == [("", "feeds")]


def test_a_target_that_the_administrator_did_not_name_speaks_for_its_own_namespace_only() -> None:
    found = read_elsewhere(said_elsewhere(3, namespace="evil"), said_elsewhere(7), namespaces=["monitoring"])
    assert set(found.queues) == {("evil", "feeds"), ("", "feeds")}
    assert [one.sample.ready for one in found.of(("", "shop"), "feeds")] == [7]
    assert found.unnamed == {"feeds"}


def test_a_target_without_the_label_speaks_for_nobody_unless_the_administrator_says_so() -> None:
    said = said_elsewhere(3, namespace=None)
    assert not read_elsewhere(said).of(("", "shop", "default"), "feeds")
    assert [one.sample.ready for one in read_elsewhere(said, namespaces=[""]).of(("", "shop"), "feeds")] == [3]
    assert read_elsewhere(said, verify=False).of(("", "shop"), "feeds")


def test_series_of_a_shape_that_nobody_asked_for_are_ignored() -> None:
    answer = [Series({}, 1, 1), Series({"__name__": "x"}, 1, 1), Series({"queue": "feeds"}, 1, 1)]
    assert not read_depths(answer, sources.greenfleet_depth(60), verify_namespace=True).queues
    assert not read_workers(answer, verify_namespace=True).by_fleet


METRICS = {part: name for name, part in sources.WORKER_PARTS.items()}
ALIVE = {"threads_limit": 100.0, "started": 11.0, "finished": 9.0}
"""What a worker says at least."""


def worker(
    part: str, value: float, *, at: float = 50.0, pool: str = "shop/feeds", namespace: str = "shop", **labels: str
) -> Series:
    given = {"__name__": METRICS[part], "pool": pool, "role": "eventlet", "worker": "feeds-1", "namespace": namespace}
    return Series({**given, **labels}, value, at)


def alive(**labels: Any) -> list[Series]:
    return [worker(part, value, **labels) for part, value in ALIVE.items()]


def test_a_worker_has_all_its_numbers_and_a_gauge_that_it_does_not_say_is_zero() -> None:
    answer = [
        *alive(),
        worker("threads_busy", 7),
        worker("cpu_seconds", 2.5),
        worker("hub_blocked_seconds", 0.5, task="proj.slow"),
        worker("hub_blocked_seconds", 0.25, task="proj.other"),
        worker("recycle", 1, reason="memory"),
        worker("recycle", 0, reason="age"),
        worker("risk", 1, reason="visibility_timeout", task="proj.slow"),
        worker("risk", 0, reason="acks", task=""),
    ]
    [found] = read_workers(answer, verify_namespace=True).by_fleet["shop/feeds", "eventlet"]
    sample = found.sample
    assert (sample.pod, sample.at, sample.threads_limit, sample.threads_busy, sample.started) == (
        "feeds-1",
        50,
        100,
        7,
        11,
    )
    assert (sample.cpu_seconds, sample.hub_blocked_seconds, sample.reserved) == (2.5, 0.75, 0)
    assert found.blocked_seconds_by_task == {"proj.slow": 0.5, "proj.other": 0.25}
    assert found.recycle_reasons == ("memory",)
    assert found.risks == (("visibility_timeout", "proj.slow"),)


def test_each_counter_of_a_worker_is_read_from_one_metric_and_each_metric_is_a_number_that_is_used() -> None:
    counters, all_numbers = ({field.name for field in fields(kind)} for kind in (WorkerCounters, WorkerSample))
    told_apart = {sources.RECYCLE, sources.RISK, sources.DEAD_TASK}
    assert counters <= METRICS.keys()
    assert METRICS.keys() - told_apart == all_numbers - {"pod", "at"}


@pytest.mark.parametrize("missing", ALIVE)
def test_a_worker_without_a_limit_or_a_count_is_no_sample(missing: str) -> None:
    answer = [worker(part, value) for part, value in ALIVE.items() if part != missing]
    assert not read_workers([*answer, worker("threads_busy", 1)], verify_namespace=True).by_fleet


def test_of_two_targets_that_show_one_worker_the_newest_counts_and_they_are_not_mixed() -> None:
    older = [*alive(at=49, job="a"), worker("threads_busy", 3, at=49, job="a")]
    [found] = read_workers([*alive(job="b"), *older], verify_namespace=True).by_fleet["shop/feeds", "eventlet"]
    assert (found.sample.at, found.sample.threads_busy) == (50, 0)


def test_a_worker_that_shows_numbers_twice_has_two_samples_of_one_moment() -> None:
    twice = [worker(part, value, series=name) for name in "ab" for part, value in ALIVE.items()]
    found = read_workers([*twice, worker("threads_busy", 1, series="a")], verify_namespace=True)
    assert len(found.by_fleet["shop/feeds", "eventlet"]) == 2


def test_another_namespaces_pod_cannot_speak_for_a_pool() -> None:
    found = read_workers(alive(namespace="evil"), verify_namespace=True)
    assert not found.by_fleet
    assert found.namespace_mismatch == {"shop"}
    assert found.spoke_for_others == {"evil"}


def test_eventlet_and_prefork_workers_are_kept_apart() -> None:
    answer = [*alive(), *alive(role="prefork", worker="feeds-p")]
    assert set(read_workers(answer, verify_namespace=True).by_fleet) == {
        ("shop/feeds", "eventlet"),
        ("shop/feeds", "prefork"),
    }


def test_dead_letters_count_only_if_the_exporter_is_of_the_brokers_namespace() -> None:
    def dead(value: float, broker: str, queue: str = "feeds") -> Series:
        labels = {"__name__": "greenfleet_queue_dead_letters", "namespace": "shop", "broker": broker, "queue": queue}
        return Series(labels, value, 100.0)

    found = depths(
        dead(2, BROKER), dead(9, "other/broker/url"), dead(math.nan, BROKER, "slow"), dead(math.inf, BROKER, "slower")
    )
    assert found.dead_letters == {(BROKER, "feeds"): 2}
    assert not found.queues, "it is no depth"


def test_dead_lettered_tasks_are_named_by_the_pools_own_workers() -> None:
    def dead(value: float, task: str, namespace: str = "shop") -> Series:
        labels = {"__name__": "greenworker_dead_letters_total", "pool": "shop/feeds", "queue": "feeds", "task": task}
        return Series({**labels, "namespace": namespace}, value, 100.0)

    answer = [dead(1, "proj.parse"), dead(0, "proj.fine"), dead(1, ""), dead(1, "proj.foreign", "other")]
    found = read_workers([*alive(), *answer], verify_namespace=True)
    assert found.dead_tasks == {"shop/feeds": {"proj.parse"}}
    assert len(found.by_fleet["shop/feeds", "eventlet"]) == 1
