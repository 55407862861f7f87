"""From Prometheus' answers to samples: whose they are, which one counts, and what is missing."""

from __future__ import annotations

import math

from greenfleet.metrics import sources
from greenfleet.metrics.collect import Depths, read_depths, read_waiting, read_workers
from greenfleet.metrics.prometheus import Series
from greenfleet.settings import Source

BROKER = "shop/broker/url"


def depth(part: str, value: float, *, broker: str = BROKER, namespace: str | None = "shop", **labels: str) -> Series:
    target = {} if namespace is None else {"namespace": namespace}
    queue = {} if part == "up" else {"queue": "feeds"}
    return Series({"series": part, "broker": broker, "pod": "exporter-1", **queue, **target, **labels}, value)


def depths(*series: Series, verify: bool = True) -> Depths:
    return read_depths(series, sources.greenfleet_depth(), verify_namespace=verify)


def test_a_queue_has_its_depth_its_unacknowledged_messages_and_the_time_of_the_scrape() -> None:
    found = depths(depth("ready", 7), depth("unacked", 3), depth("at", 100.5), depth("up", 1))
    [sample] = found.queues[BROKER, "feeds"]
    assert (sample.ready, sample.unacked, sample.at) == (7, 3, 100.5)
    assert not found.down
    assert not found.foreign


def test_a_depth_without_the_time_of_its_scrape_is_no_sample() -> None:
    assert not depths(depth("ready", 7)).queues


def test_a_time_without_a_depth_is_no_sample() -> None:
    assert not depths(depth("at", 100), depth("unacked", 2)).queues


def test_another_namespaces_target_cannot_speak_for_a_broker() -> None:
    found = depths(depth("ready", 0, namespace="evil"), depth("at", 100, namespace="evil"))
    assert not found.queues
    assert found.foreign == {"evil"}


def test_a_target_without_a_namespace_label_is_not_believed() -> None:
    found = depths(depth("ready", 0, namespace=None), depth("at", 100, namespace=None))
    assert not found.queues
    assert found.foreign == {""}


def test_a_namespace_is_compared_as_a_whole() -> None:
    for broker in ("shop2/broker/url", "sho/broker/url", "/shop/url", ""):
        assert not depths(depth("ready", 0, broker=broker), depth("at", 1, broker=broker)).queues


def test_the_administrator_can_switch_the_check_off() -> None:
    found = depths(depth("ready", 4, namespace=None), depth("at", 9, namespace=None), verify=False)
    assert found.queues[BROKER, "feeds"][0].ready == 4


def test_what_waits_is_named_by_broker_and_queue_and_a_foreign_target_wakes_nobody() -> None:
    said = (depth("ready", 3), depth("ready", 5, namespace="evil", broker="shop/other/url"))
    query = sources.greenfleet_depth()
    assert read_waiting(said, query, verify_namespace=True) == {(BROKER, "feeds")}
    assert len(read_waiting(said, query, verify_namespace=False)) == 2


def test_a_source_that_does_not_name_the_broker_names_the_queue() -> None:
    query = sources.selected_depth(Source(selector="depth", queue_label="name"))
    assert read_waiting((Series({"name": "feeds"}, 1.0),), query, verify_namespace=True) == {("", "feeds")}


def test_a_foreign_target_cannot_call_a_broker_down() -> None:
    assert not depths(depth("up", 0, namespace="evil")).down


def test_a_broker_is_down_only_if_none_of_its_exporters_reaches_it() -> None:
    assert depths(depth("up", 0)).down == {BROKER}
    assert not depths(depth("up", 0), depth("up", 1, pod="exporter-2")).down
    assert depths(depth("up", math.nan)).down == {BROKER}


def test_while_an_exporter_rolls_over_the_younger_sample_counts() -> None:
    found = depths(
        depth("ready", 5), depth("at", 100), depth("ready", 9, pod="exporter-2"), depth("at", 101, pod="exporter-2")
    )
    [sample] = found.queues[BROKER, "feeds"]
    assert (sample.ready, sample.at) == (9, 101)


def test_other_sources_keep_every_target_so_that_the_law_sees_contradictions() -> None:
    query = sources.selected_depth(sources.BUILT_IN["celery-exporter"])
    answer = [
        Series({"series": part, "queue_name": "feeds", "instance": instance}, value)
        for instance, ready in (("a", 1.0), ("b", 500.0))
        for part, value in (("ready", ready), ("at", 100.0))
    ]
    found = read_depths(answer, query, verify_namespace=True)
    assert sorted(sample.ready for sample in found.queues["", "feeds"]) == [1, 500]


def test_other_sources_name_no_broker_whatever_their_labels_say() -> None:
    query = sources.selected_depth(Source(selector="depth", queue_label="name"))
    labels = {"name": "feeds", "broker": "shop/broker/url"}
    answer = [Series({"series": "ready", **labels}, 3), Series({"series": "at", **labels}, 4)]
    assert list(read_depths(answer, query, verify_namespace=True).queues) == [("", "feeds")]


def test_series_of_a_shape_that_nobody_asked_for_are_ignored() -> None:
    answer = [Series({}, 1), Series({"series": "x"}, 1), Series({"queue": "feeds"}, 1)]
    own = sources.own_depth("x), 'series', 'up', '', '') or vector(1) or label_replace(sum(x")
    assert not read_depths(answer, own, verify_namespace=True).queues
    assert not read_depths(answer, sources.greenfleet_depth(), verify_namespace=True).queues
    assert not read_workers(answer, verify_namespace=True).by_fleet


def worker(part: str, value: float, *, pool: str = "shop/feeds", namespace: str = "shop", **labels: str) -> Series:
    given = {"series": part, "pool": pool, "role": "eventlet", "worker": "feeds-1", "namespace": namespace}
    return Series({**given, **labels}, value)


def test_a_worker_has_all_its_numbers_and_what_it_does_not_say_is_zero() -> None:
    answer = [
        worker("threads_limit", 100),
        worker("at", 50),
        worker("threads_busy", 7),
        worker("started", 11),
        worker("cpu", 2.5),
        worker("hub_blocked", 0.5, task="proj.slow"),
        worker("hub_blocked", 0.25, task="proj.other"),
        worker("recycle", 1, reason="memory"),
        worker("guard", 1, reason="visibility_timeout", task="proj.slow"),
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
    assert found.guards == (("visibility_timeout", "proj.slow"),)


def test_a_worker_without_a_time_or_a_limit_is_no_sample() -> None:
    assert not read_workers([worker("threads_limit", 1)], verify_namespace=True).by_fleet
    assert not read_workers([worker("at", 1), worker("threads_busy", 1)], verify_namespace=True).by_fleet


def test_another_namespaces_pod_cannot_speak_for_a_pool() -> None:
    answer = [worker("threads_limit", 1, namespace="evil"), worker("at", 1, namespace="evil")]
    found = read_workers(answer, verify_namespace=True)
    assert not found.by_fleet
    assert found.foreign == {"evil"}


def test_eventlet_and_prefork_workers_are_kept_apart() -> None:
    answer = [
        *[worker(part, 1) for part in ("threads_limit", "at")],
        *[worker(part, 1, role="prefork", worker="feeds-p") for part in ("threads_limit", "at")],
    ]
    assert set(read_workers(answer, verify_namespace=True).by_fleet) == {
        ("shop/feeds", "eventlet"),
        ("shop/feeds", "prefork"),
    }
