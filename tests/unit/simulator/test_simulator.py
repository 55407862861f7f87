"""The simulator is only worth something if it is right about queues, hubs, pods and the autoscalers it compares."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from greenfleet.simulator import Fleet, arrivals, autoscaler_named, load, simulate
from greenfleet.simulator.autoscalers import HPA_DEFAULT_DOWN, CeleryAutoscale, Keda, keda_grid
from greenfleet.simulator.cli import main
from greenfleet.simulator.observation import Observatory
from greenfleet.simulator.report import averaged, comparison
from greenfleet.simulator.traces import Change, Segment, Trace, parse, scaled

BENCH = Path(__file__).parents[3] / "bench"
TRACES, LIVE_TRACES = BENCH / "traces", BENCH / "scaling" / "traces"
SMALL = Trace("small", 60, (Segment(0, rate=20),), warmup=0, startup=(3, 3), runtime=1.0)


def fleet(trace: Trace, published: list[float], threads: int = 100, replicas: int = 1) -> Fleet:
    world = Fleet(trace, published, 1, threads)
    world.scale(replicas)
    return world


# --- the fleet
# ----------------------------------------------------------------------------------------------------------


def test_no_message_is_lost_or_invented() -> None:
    published = arrivals(SMALL, 1)
    world = fleet(SMALL, published)
    world.advance(60)
    started = len(world.waits)
    assert started + len(world.queue) + sum(w.fetching for w in world.workers.values()) == len(published)


def test_a_saturated_worker_does_what_its_core_allows() -> None:
    trace = replace(SMALL, cpu=0.01, cores=0.5)
    world = fleet(trace, [0.0] * 10_000)
    world.advance(43)
    (worker,) = world.workers.values()
    assert worker.finished == pytest.approx(40 * 0.5 / 0.01, rel=0.05)


def test_a_worker_with_few_threads_does_what_littles_law_allows() -> None:
    trace = replace(SMALL, cpu=0.0001, cores=1.0, runtime_spread=0.0)
    world = fleet(trace, [0.0] * 10_000, threads=10)
    world.advance(43)
    (worker,) = world.workers.values()
    assert worker.finished == pytest.approx(10 * 40 / 1.0, rel=0.05)


def test_more_threads_than_the_core_bears_only_make_the_hub_lag() -> None:
    trace = replace(SMALL, cpu=0.01, cores=0.5, prefetch=1000)
    few, many = fleet(trace, [0.0] * 10_000, threads=60), fleet(trace, [0.0] * 10_000, threads=600)
    for world in (few, many):
        world.advance(60)
    lag = [w.lag_sum / w.lag_count for world in (few, many) for w in world.workers.values()]
    done = [w.finished for world in (few, many) for w in world.workers.values()]
    assert lag[1] > 5 * lag[0]
    assert done[1] <= 1.05 * done[0]


CORE = replace(SMALL, hub="core", runtime=1.0, runtime_spread=0.0, cpu=0.02, cores=0.5, prefetch=1000)


def test_with_the_hub_core_the_run_time_counts_the_wait_for_the_own_core() -> None:
    few, many = fleet(CORE, [0.0] * 10_000, threads=20), fleet(CORE, [0.0] * 10_000, threads=200)
    for world in (few, many):
        world.advance(60)
    (one,), (two,) = few.workers.values(), many.workers.values()
    assert one.runtime_sum / one.finished == pytest.approx(1.04, rel=0.1)
    assert two.runtime_sum / two.finished > 5, "two hundred tasks share half a core: Little's law"
    assert two.finished == pytest.approx(57 * 0.475 / 0.02, rel=0.2)


def test_with_the_hub_core_the_lag_is_two_milliseconds_for_each_ready_green_thread() -> None:
    world = fleet(CORE, [0.0] * 10_000, threads=200)
    world.advance(60)
    (worker,) = world.workers.values()
    assert 0.002 * 100 < worker.lag_sum / worker.lag_count < 0.002 * 200


def test_the_same_task_takes_its_idle_run_time_on_an_idle_worker() -> None:
    world = fleet(CORE, [float(at) for at in range(5, 50)])
    world.advance(60)
    assert [ran for _, ran, _ in world.run_times] == pytest.approx([idle for _, _, idle in world.run_times], rel=0.01)


def test_a_node_short_of_cpu_gives_a_hub_less_than_its_limit() -> None:
    world = fleet(replace(CORE, granted=0.5), [0.0] * 10_000, threads=60)
    world.advance(60)
    (worker,) = world.workers.values()
    assert worker.finished == pytest.approx(0.5 * 57 * 0.475 / 0.02, rel=0.1)


def test_a_pod_that_is_stuck_never_serves_but_the_only_one_does() -> None:
    world = fleet(replace(SMALL, stuck_pods=1.0), [0.0], replicas=3)
    world.advance(59)
    assert [worker.serving for worker in world.workers.values()] == [True, False, False]


def test_a_downstream_may_become_slow_under_way() -> None:
    trace = replace(SMALL, cores=1.0, seconds=200, changes=(Change(60, downstream=10),))
    world = fleet(trace, arrivals(trace, 1), threads=100)
    world.advance(59)
    before = len(world.latencies)
    world.advance(119)
    assert world.queue
    assert len(world.latencies) - before < 0.8 * before


def test_messages_start_first_in_first_out() -> None:
    world = fleet(SMALL, [float(n) / 50 for n in range(1000)], threads=5)
    world.advance(60)
    published = [at - wait for at, wait in world.waits]
    assert published == sorted(published)


def test_a_pod_serves_only_after_its_start() -> None:
    world = fleet(SMALL, [0.0])
    world.advance(2.9)
    assert not world.waits
    world.advance(3.2)
    assert len(world.waits) == 1


def test_a_worker_that_leaves_finishes_what_it_runs() -> None:
    world = fleet(SMALL, [0.0] * 20)
    world.advance(3.5)
    world.scale(0)
    assert len(world.workers) == 1
    world.advance(30)
    assert not world.workers
    assert world.requeued == 0


def test_what_a_drain_cuts_off_goes_back_to_the_front_of_the_queue() -> None:
    world = fleet(replace(SMALL, runtime=500.0, runtime_spread=0.0, drain=10.0), [0.0] * 20)
    world.advance(5)
    world.scale(0)
    world.advance(20)
    assert not world.workers
    assert world.requeued == len(world.queue) == 20


def test_a_task_that_a_drain_cut_off_waited_once() -> None:
    world = fleet(replace(SMALL, runtime=100.0, runtime_spread=0.0, drain=10.0), [n / 100 for n in range(20)])
    world.advance(5)
    world.scale(0)
    world.advance(40)
    assert world.oldest_wait == 0
    world.scale(1)
    world.advance(59)
    assert len(world.waits) == 20
    assert not world.queue


def test_a_message_that_is_fetched_and_not_started_still_waits() -> None:
    trace = replace(SMALL, blocking=1.0, blocking_seconds=20.0, max_wait=10, prefetch=5, runtime=0.1)
    figures = simulate(
        replace(trace, arrivals=(Segment(0, 5, rate=2), Segment(6, 8, rate=2))), autoscaler_named("formula"), 1
    ).figures
    assert figures.wait_max > 10
    assert figures.violated_seconds > 0


def test_pods_that_are_not_ready_leave_before_busy_ones() -> None:
    world = fleet(SMALL, [0.0] * 20)
    world.advance(5)
    world.scale(2)
    world.scale(1)
    assert [w.serving for w in world.workers.values()] == [True]


def test_a_slow_downstream_inflates_the_run_time_and_not_the_throughput() -> None:
    trace = replace(SMALL, downstream=50, cpu=0.0001, cores=1.0, seconds=120)
    few, many = fleet(trace, [0.0] * 50_000, threads=60), fleet(trace, [0.0] * 50_000, threads=600)
    for world in (few, many):
        world.advance(120)
    done = [w.finished for world in (few, many) for w in world.workers.values()]
    assert done[1] < 1.25 * done[0]


def test_prometheus_shows_the_past_and_nothing_during_an_outage() -> None:
    trace = replace(SMALL, outages=(replace(load(TRACES / "outage.json").outages[0], at=20, until=30),))
    world = fleet(trace, arrivals(trace, 1))
    seen = Observatory(world, 1)
    world.advance(15)
    sample = seen.sample()
    assert sample.queues[0].at < 15
    assert not sample.problems
    world.advance(25)
    assert seen.sample().problems
    assert not seen.sample().queues


@pytest.mark.parametrize("interval", [2.0, 15.0, 30.0])
def test_prometheus_scrapes_as_often_as_it_is_told(interval: float) -> None:
    world = fleet(SMALL, [])
    seen = Observatory(world, 1, interval)
    ages = []
    for at in range(1, 150):
        world.advance(float(at))
        sample = seen.sample()
        if at > 40:
            ages.append(max(world.now - sample.queues[0].at, world.now - sample.workers[0].at))
    assert interval - 1 <= max(ages) <= interval


# --- traces
# -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(TRACES.glob("*.json")), ids=lambda path: path.stem)
def test_every_trace_file_loads_under_its_own_name(path: Path) -> None:
    trace = load(path)
    assert trace.name == path.stem
    assert arrivals(trace, 1)
    assert arrivals(trace, 1) == arrivals(trace, 1)


def test_a_trace_with_a_key_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown keys.*'burts'"):
        parse({"name": "x", "seconds": 1, "arrivals": [], "burts": 3})


def test_a_trace_with_a_hub_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hub 'turbo': use one of fetch, core"):
        parse({"name": "x", "seconds": 1, "arrivals": [], "hub": "turbo"})


def test_streams_have_their_rate_and_bursts_their_size() -> None:
    times = arrivals(Trace("t", 200, (Segment(0, rate=50), Segment(100, burst=777, over=2))), 1)
    assert sum(1 for time in times if time < 100) == pytest.approx(5000, rel=0.05)
    assert sum(1 for time in times if 100 <= time <= 102) == pytest.approx(877, abs=50)


def test_a_scaled_trace_is_a_larger_fleet_with_a_larger_load() -> None:
    twice = scaled(load(TRACES / "burst.json"), 2)
    assert twice.arrivals[1].burst == 12_000
    assert twice.replicas_max == 20


# --- the autoscalers of others
# -------------------------------------------------------------------------------------------------


def sync(autoscaler: Keda, metric: float, replicas: int, at: float = 0.0) -> int:
    """One HPA sync of an autoscaler that has just begun, or goes on."""
    trace = replace(SMALL, seconds=4000, replicas_max=100)
    world = Fleet(trace, [], 1, 100)
    world.replicas = replicas
    world.now = at
    if not hasattr(autoscaler, "_max"):
        autoscaler.start(trace)
    autoscaler._sync(world, metric)
    return world.replicas


def test_hpa_asks_for_the_metric_over_the_target_rounded_up() -> None:
    assert sync(Keda(target=100, up=replace(HPA_DEFAULT_DOWN, policies=())), 730, 1) == 8


def test_hpa_does_nothing_within_its_tolerance() -> None:
    assert sync(Keda(target=100), 1090, 10) == 10
    assert sync(Keda(target=100), 1110, 10) == 12


def test_hpa_default_policies_double_or_add_four_per_fifteen_seconds() -> None:
    assert sync(Keda(target=10), 100_000, 1) == 5
    assert sync(Keda(target=10), 100_000, 10) == 20


def test_hpa_scales_in_to_the_highest_recommendation_of_the_last_five_minutes() -> None:
    autoscaler = Keda(target=100)
    sync(autoscaler, 1000, 10, at=0.0)
    assert sync(autoscaler, 100, 10, at=299.0) == 10
    assert sync(autoscaler, 100, 10, at=301.0) == 1


def test_keda_leaves_zero_at_a_poll_and_returns_after_the_cooldown() -> None:
    trace = Trace("t", 600, (Segment(100, burst=5),), warmup=0, start_replicas=0, startup=(1, 1))
    run = simulate(trace, Keda(), 1)
    up = next(second.at for second in run.seconds if second.replicas == 1)
    down = next(second.at for second in run.seconds if second.at > up and second.replicas == 0)
    assert 100 <= up <= 132
    assert 300 <= down - up <= 332


def test_keda_holds_while_its_metric_is_missing() -> None:
    autoscaler = Keda(target=10)
    trace = replace(SMALL, replicas_max=100)
    autoscaler.start(trace)
    world = Fleet(trace, [], 1, 100)
    world.replicas = 3
    autoscaler._sync(world, None)
    autoscaler._poll(world, None)
    assert world.replicas == 3


def test_a_fitted_keda_knows_what_one_worker_bears() -> None:
    autoscaler = autoscaler_named("keda-fitted-50-0")
    trace = replace(SMALL, cpu=0.01, cores=0.51, runtime=1.0, max_wait=30)
    assert isinstance(autoscaler, Keda)
    assert autoscaler.start(trace) == 50
    assert autoscaler.target == pytest.approx(0.5 * 50 * 30)


@pytest.mark.parametrize("name", ["steady", "burst", "cpu-growth"])
def test_the_formula_keeps_the_objective_where_nothing_is_hidden_from_it(name: str) -> None:
    figures = simulate(load(TRACES / f"{name}.json"), autoscaler_named("formula"), 1).figures
    assert figures.violated_seconds == 0


def test_celery_autoscale_adds_one_thread_a_second_and_never_a_worker() -> None:
    run = simulate(Trace("t", 40, (Segment(0, burst=5000),), warmup=0, startup=(1, 1)), CeleryAutoscale(), 1)
    assert run.seconds[-1].replicas == 1
    assert 40 <= run.seconds[-1].threads <= 50


def test_autoscalers_are_found_by_name_and_unknown_ones_are_refused() -> None:
    assert {autoscaler_named(autoscaler.name).name for autoscaler in keda_grid()} == {
        autoscaler.name for autoscaler in keda_grid()
    }
    with pytest.raises(ValueError, match="autoscaler 'magic'"):
        autoscaler_named("magic")


# --- the whole
# ----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run() -> None:
    trace = load(TRACES / "sawtooth.json")
    assert (
        simulate(trace, autoscaler_named("greenfleet"), 7).figures
        == simulate(trace, autoscaler_named("greenfleet"), 7).figures
    )


@pytest.mark.parametrize("name", ["burst", "sawtooth", "on-off", "slow-poison"])
def test_greenfleet_keeps_its_objective_and_costs_less_than_keda_with_defaults(name: str) -> None:
    trace = load(TRACES / f"{name}.json")
    ours, theirs = (
        simulate(trace, autoscaler_named(autoscaler), 1).figures for autoscaler in ("greenfleet", "keda-default")
    )
    assert ours.violated_seconds == 0
    assert ours.worker_seconds < 0.75 * theirs.worker_seconds


@pytest.mark.parametrize("scrape_seconds", [15.0, 30.0, 60.0])
def test_a_steady_load_that_is_seldom_scraped_brings_no_flapping_and_no_missing_metrics(scrape_seconds: float) -> None:
    """With `maxWait` at five scrapes, as docs/scaling.md asks."""
    trace = Trace(
        "steady", 2400, (Segment(0, rate=10),), warmup=900, cpu=0.01, cores=0.05, max_wait=5 * scrape_seconds
    )  # fmt: skip
    autoscaler = autoscaler_named("greenfleet")
    run = simulate(trace, autoscaler, 1, scrape_seconds)
    wanted = [second.replicas for second in run.seconds if second.at > trace.warmup]
    steps = [after - before for before, after in itertools.pairwise(wanted) if after != before]
    assert len(steps) <= 1, steps
    assert run.figures.violated_seconds == 0
    assert 2 <= min(wanted) <= max(wanted) < trace.replicas_max
    settled = [decision for decision in autoscaler.decisions if decision.why.at > trace.warmup]
    assert settled
    assert not any(decision.metrics_issues for decision in settled)


def test_green_threads_never_grow_on_run_time_that_they_inflated_themselves() -> None:
    """Three workers whose cores are just full: more green threads only wait longer for the same core."""
    trace = Trace(
        "own-core",
        900,
        (Segment(0, rate=60),),
        runtime=2.0,
        cpu=0.05,
        cores=1.0,
        hub="core",
        prefetch=1000,
        start_replicas=3,
    )
    run = simulate(trace, autoscaler_named("greenfleet"), 1)
    per_worker = [second.threads / second.ready for second in run.seconds if second.at > trace.warmup and second.ready]
    assert run.figures.violated_seconds == 0
    assert max(per_worker) < 145 / 2
    assert run.figures.runtime_inflation <= 1.3


@pytest.mark.parametrize("name", sorted(path.stem for path in TRACES.glob("*.json")))
def test_no_known_trace_has_a_violated_second(name: str) -> None:
    assert simulate(load(TRACES / f"{name}.json"), autoscaler_named("greenfleet"), 1).figures.violated_seconds == 0


@pytest.mark.parametrize("over", [90, 120])
@pytest.mark.parametrize("autoscaler", ["greenfleet", "greenfleet-learned"])
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_tasks_that_become_ten_times_slower_starve_no_pool(autoscaler: str, over: int, seed: int) -> None:
    """Whenever the comparison of throughput meets them: it took the slower tasks for a full downstream, lowered the
    green threads, saw less throughput, lowered them again, from 225 to 20, while 13,000 messages waited.
    """
    trace = replace(load(TRACES / "slow-poison.json"), changes=(Change(at=150, over=over, runtime=20),))
    run = simulate(trace, autoscaler_named(autoscaler), seed)
    assert run.figures.violated_seconds < 150
    assert run.seconds[-1].oldest_wait <= trace.max_wait


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tasks_that_become_ten_times_slower_get_green_threads_in_time(seed: int) -> None:
    """Run time is learned from tasks that have ended, and the slow ones have not: idle cores must speak before it."""
    run = simulate(load(LIVE_TRACES / "slow-poison.json"), autoscaler_named("greenfleet"), seed)
    assert run.figures.violated_seconds == 0
    assert run.figures.worker_seconds < 150, "one worker of a tenth of a core bears all of it"


@pytest.mark.parametrize(
    ("share", "workers", "threads"), [(0.3, 2, 1000), (0.5, 2, 1000), (0.7, 2, 1000), (0.8, 2, 1000), (0.9, 3, 3000)]
)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_downstream_that_bears_less_than_arrives_gets_no_fleet(
    share: float, workers: int, threads: int, seed: int
) -> None:
    """More concurrency brings nothing but longer run times there, which would ask for still more."""
    trace = load(TRACES / "slow-downstream.json")
    rate = trace.arrivals[0].rate
    run = simulate(replace(trace, downstream=share * rate * trace.runtime), autoscaler_named("greenfleet"), seed)
    assert max(second.replicas for second in run.seconds) <= workers < trace.replicas_max
    assert run.seconds[-1].threads <= threads < trace.replicas_max * 1000


def test_the_comparison_takes_their_best_configuration_at_equal_service() -> None:
    trace = load(TRACES / "burst.json")
    runs = [
        simulate(trace, autoscaler_named(autoscaler), 1)
        for autoscaler in ("greenfleet", "keda-500-400-0", "keda-100-50-60", "keda-100-800-60")
    ]
    found = comparison(averaged(runs), "greenfleet", [run.autoscaler for run in runs[1:]])
    assert found["keda_single_violated_s"] <= found["violated_s"]
    assert found["single"] == "keda-500-400-0"


def test_the_command_line_ends_with_one_json_object(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps({"name": "tiny", "seconds": 80, "arrivals": [{"at": 0, "rate": 5}]}))
    code = main(
        [
            "--trace",
            "tiny",
            "--traces",
            str(tmp_path),
            "--autoscaler",
            "greenfleet,keda-tuned",
            "--seeds",
            "2",
            "--plot",
            str(tmp_path / "out.png"),
        ]
    )
    assert code == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["traces"]["tiny"]) == {"greenfleet", "keda-tuned"}
    assert "mean_cost_ratio_single" in result["comparison"]
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_a_set_of_traces_is_one_line_for_each_autoscaler_and_a_part_can_be_left_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, rate in (("one", 5), ("two", 10)):
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"name": name, "seconds": 80, "arrivals": [{"at": 0, "rate": rate}]})
        )
    assert (
        main(
            [
                "--set",
                "known",
                "--traces",
                str(tmp_path),
                "--autoscaler",
                "greenfleet",
                "--without",
                "deadline",
                "--without",
                "rate",
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    totals = json.loads(lines[-1])["totals"]
    assert list(totals) == ["greenfleet", "greenfleet without deadline,rate"]
    assert totals["greenfleet"]["traces"] == 2
    assert len(lines) == 4


def test_a_switched_off_part_is_really_off() -> None:
    trace = load(TRACES / "steady.json")
    whole, part = (
        simulate(trace, autoscaler_named(autoscaler), 1).figures
        for autoscaler in ("greenfleet", "greenfleet without deadline")
    )
    assert part.violated_seconds > whole.violated_seconds == 0


def test_the_command_line_says_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--trace", "nothing", "--traces", str(TRACES)]) == 2
    assert "trace 'nothing' does not exist: choose from blocking" in capsys.readouterr().err
    assert main(["--trace", "burst", "--traces", str(TRACES), "--autoscaler", "magic"]) == 2
