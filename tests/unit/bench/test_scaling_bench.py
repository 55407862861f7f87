"""What the bench of the autoscalers says about a run is worth as much as its arithmetic."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from bench.scaling import record as records
from bench.scaling import report, tuning
from bench.scaling.figures import Figures, figures, longest_gap
from bench.scaling.fleets import APP, Fleet, deployments, pool_body, scaled_object
from bench.scaling.load import messages
from bench.scaling.optimum import fewest_worker_seconds
from bench.scaling.reality import agreement, simulated
from bench.scaling.record import Record, Second, Task
from greenfleet.simulator.autoscalers import autoscaler_named
from greenfleet.simulator.fleet import IDLE_CORES
from greenfleet.simulator.run import simulate
from greenfleet.simulator.traces import Change, Trace, load, parse, value_at

TRACES = Path(__file__).parents[3] / "bench" / "scaling" / "traces"
TRACE = Trace("short", 20, (), warmup=2, max_wait=5, burst_at=4)


def recorded(tasks: tuple[Task, ...] = (), seconds: tuple[Second, ...] = ()) -> Record:
    return Record("short", "greenfleet", "greenfleet", seconds, tasks, (), None)


def second(at: float, *, ready: int = 1, threads: int = 10, pods: int = 1, replicas: int = 1) -> Second:
    return Second(at, 0, pods, ready, replicas, threads)


# --- figures
# ------------------------------------------------------------------------------------------------------------


def test_a_second_is_violated_while_any_message_waits_too_long() -> None:
    overlapping = (Task(1.0, 9.0, 1, 1), Task(1.0, 8.0, 1, 1), Task(10.0, 14.0, 1, 1))
    assert figures(recorded(overlapping), TRACE).violated_s == 3  # seconds 7, 8 and 9


def test_a_message_that_never_starts_violates_until_the_end_and_is_lost() -> None:
    found = figures(recorded((Task(10.0, None, 0, 0),)), TRACE)
    assert (found.violated_s, found.lost, found.left, found.wait_max) == (5, 1, 1, 10.0)


def test_a_task_that_was_cut_off_is_killed_and_one_that_ended_twice_is_twice() -> None:
    found = figures(recorded((Task(3, 4, 2, 1), Task(3, 4, 2, 2), Task(3, 4, 1, 1))), TRACE)
    assert (found.killed, found.twice, found.lost) == (1, 1, 0)


def test_workers_are_paid_for_while_their_pods_exist() -> None:
    seconds = tuple(second(at, pods=3, ready=1) for at in range(21))
    assert figures(recorded(seconds=seconds), TRACE).worker_seconds == 3 * 17  # from second 3, the first measured one


def test_what_an_observer_has_not_seen_is_paid_for_as_he_left_it() -> None:
    seconds = tuple(second(at, pods=3, ready=1) for at in (*range(8), *range(15, 18)))
    kept_away = recorded(seconds=seconds)
    assert figures(kept_away, TRACE).worker_seconds == 3 * 17
    assert longest_gap(kept_away) == 8


def test_work_that_is_left_at_the_end_is_paid_for() -> None:
    seconds = tuple(second(at, pods=3) for at in range(21))
    late = replace(recorded((Task(10.0, 22.0, 1, 1),), seconds), drained_at=26.0)
    assert figures(late, TRACE).worker_seconds == 3 * (17 + 6)
    in_time = replace(recorded((Task(10.0, 12.0, 1, 1),), seconds), drained_at=22.0)
    assert figures(in_time, TRACE).worker_seconds == 3 * 17


def test_capacity_counts_from_the_burst() -> None:
    before = [second(at) for at in range(5)]
    after = [second(5), second(6, threads=40), second(7, threads=40), second(8, ready=3, threads=120, pods=3)]
    found = figures(recorded(seconds=(*before, *after)), TRACE)
    assert (found.first_capacity_s, found.full_capacity_s) == (2, 4)


def test_from_no_worker_at_all_the_first_task_that_starts_is_the_first_capacity() -> None:
    """Not the one before the burst, and not the observer's next look."""
    seconds = (*(second(at, ready=0, threads=0) for at in range(9)), *(second(at) for at in range(9, 21)))
    tasks = (Task(1.0, 2.0, 1, 1), Task(4.0, 7.8, 1, 1), Task(4.0, 8.2, 1, 1), Task(5.0, None, 0, 0))
    assert figures(recorded(tasks, seconds), TRACE).first_capacity_s == pytest.approx(3.8)
    assert figures(recorded((), seconds), TRACE).first_capacity_s == 5


def test_a_fleet_that_never_grows_has_no_full_capacity() -> None:
    found = figures(recorded(seconds=tuple(second(at) for at in range(21))), TRACE)
    assert (found.first_capacity_s, found.full_capacity_s) == (None, None)


def test_the_ledger_is_held_against_what_was_published() -> None:
    lines = ["s 0 100.0 101.5", "e 0 102.0", "s 1 100.0 103.0", "s 1 100.0 102.0", "e 1 104.0"]
    assert records.tasks([0.0, 0.5, 0.6], lines, began=100.0) == (
        Task(0.0, 1.5, 1, 1),
        Task(0.5, 2.0, 2, 1),
        Task(0.6, None, 0, 0),
    )


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    one = replace(
        recorded((Task(1.0, None, 0, 0),), (second(1.0),)), startups=(7.5,), queries=0.5, writes={"patch pods": 3}
    )
    records.write(one, tmp_path / "new" / "one.json")
    assert records.read(tmp_path / "new" / "one.json") == one


# --- the comparison
# -----------------------------------------------------------------------------------------------------


def result(violated: int, cost: float) -> Figures:
    return replace(
        figures(recorded(), TRACE), violated_s=violated, worker_seconds=cost, first_capacity_s=3.0, full_capacity_s=9.0
    )


def test_the_json_object_has_the_keys_of_the_issue() -> None:
    autoscalers = {"greenfleet": ("greenfleet", result(0, 75)), "default": ("keda-default", result(9, 90))}
    autoscalers |= {"single": ("keda-1", result(0, 100)), "tuned": ("keda-2", result(2, 50))}
    found = report.comparison({"burst": autoscalers}, {"burst": 50.0})
    assert found["traces"]["burst"] == {
        "cost_ratio_single": 0.75,
        "cost_ratio_per_trace": 0.75,  # the cheaper one violates
        "optimum_ratio_single": 0.5,
        "cost_ratio_optimum": 1.5,
        "keda_cost_ratio_optimum": 2.0,
        "best_of_trace": "keda-1",
        "first_capacity_s": 3.0,
        "keda_first_capacity_s": 3.0,
        "full_capacity_s": 9.0,
        "keda_full_capacity_s": 9.0,
        "lost": 0,
        "twice": 0,
        "violated_s": 0,
        "keda_violated_s": 0,
    }
    assert (found["mean_cost_ratio_single"], found["worst_cost_ratio_single"], found["mean_cost_ratio_per_trace"]) == (
        0.75,
    ) * 3
    assert (found["violated_s"], found["keda_default_violated_s"], found["keda_single_violated_s"]) == (0, 9, 0)
    assert "keda-default" in report.table({"burst": autoscalers})
    assert "| burst | 0 / 9 / 0 / 2 |" in report.markdown({"burst": autoscalers}, {"burst": 50.0})


def test_kedas_user_gets_the_best_of_the_grid() -> None:
    a, b, c = "keda-60-100-0", "keda-100-100-0", "keda-40-100-0"
    costs = {
        "one": {a: (0.0, 10.0), b: (0.0, 9.0), c: (5.0, 1.0)},
        "two": {a: (0.0, 10.0), b: (0.0, 20.0), c: (0.0, 1.0)},
    }
    assert tuning.choose(costs) == tuning.Tuned(single=a, fixed=b, traces={"one": b, "two": c})


def test_every_trace_has_a_tuned_configuration() -> None:
    tuned = tuning.load()
    assert set(tuned.traces) == {path.stem for path in TRACES.glob("*.json")}
    assert {tuned.single, *tuned.traces.values()} <= set(tuning.grid())


# --- the load and the fleets
# --------------------------------------------------------------------------------------------


def test_every_autoscaler_gets_the_same_messages() -> None:
    trace = load(TRACES / "burst.json")
    assert messages(trace, 1) == messages(trace, 1) != messages(trace, 2)
    factors = [message.factor for message in messages(trace, 1)]
    assert sum(factors) / len(factors) == pytest.approx(1.0, abs=0.05)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.delenv("BENCH_TASKS", raising=False)
    specification = importlib.util.spec_from_file_location("bench_tasks", APP)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    module.app.close()


def test_the_tasks_change_as_the_simulators_do(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [{"at": 30, "over": 10, "runtime": 20.0}, {"at": 60, "cpu": 0.01}]
    monkeypatch.setattr(app, "TRACE", {"runtime": 2.0, "cpu": 0.005, "blocking": 0.0, "changes": changes})
    trace = replace(TRACE, cpu=0.005, changes=(Change(30, 10, runtime=20.0), Change(60, cpu=0.01)))
    for field in ("runtime", "cpu", "blocking"):
        for at in (0, 29, 30, 35, 40, 60, 100):
            assert app.value_at(field, at) == value_at(trace, field, at)


def test_greenfleet_is_told_max_wait_and_nothing_else() -> None:
    spec = pool_body(Fleet("greenfleet", "greenfleet", 0), load(TRACES / "burst.json"))["spec"]
    assert spec["scaling"] == {"maxWait": "30s"}
    assert not {"greenThreads", "drain", "hubWatchdog", "taskTimeLimits"} & set(spec)


def test_kedas_pods_are_greenfleets_with_fixed_threads() -> None:
    trace = load(TRACES / "burst.json")
    objects = dict(deployments(Fleet("single", "keda-60-100-0", 1), trace))
    fleet = objects["/apis/apps/v1/namespaces/bench-single/deployments/work-eventlet"]
    assert fleet["spec"]["replicas"] == trace.start_replicas
    template = fleet["spec"]["template"]
    assert template["metadata"]["annotations"]["greenfleet.io/threads"] == "60"
    assert template["spec"]["terminationGracePeriodSeconds"] == 75
    assert all("ownerReferences" not in manifest["metadata"] for manifest in objects.values())


def test_kedas_defaults_are_kedas() -> None:
    _, default = scaled_object(Fleet("default", "keda-default", 1), TRACE, "http://prometheus:9090")
    assert not {"pollingInterval", "advanced", "cooldownPeriod"} & set(default["spec"])
    _, tuned = scaled_object(Fleet("single", "keda-60-100-0", 2), TRACE, "http://prometheus:9090")
    assert tuned["spec"]["pollingInterval"] == 1
    behavior = tuned["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 0
    assert "unacked" in tuned["spec"]["triggers"][0]["metadata"]["query"]


# --- the simulator held against it
# ---------------------------------------------------------------------------------------


def test_a_simulation_agrees_with_itself() -> None:
    trace = parse({"name": "t", "seconds": 60, "warmup": 10, "arrivals": [{"at": 0, "rate": 20}], "startup": [5, 5.1]})
    run = simulate(trace, autoscaler_named("greenfleet"), 1)
    seconds = tuple(Second(s.at, s.backlog, s.pods, s.ready, s.replicas, s.threads) for s in run.seconds)
    live = Record("t", "greenfleet", "greenfleet", seconds, (), (5.0, 5.1), None)
    found = agreement(live, simulated(live, trace, 1))
    assert (found.workers, found.backlog, found.worker_seconds) == (0, 0, 1)
    fewer = replace(live, seconds=tuple(replace(s, ready=s.ready + 1) for s in seconds))
    assert agreement(fewer, run).workers == pytest.approx(1.0)


# --- the optimum
# --------------------------------------------------------------------------------------------------------

QUIET = Trace("quiet", 40, (), warmup=0, max_wait=5, cpu=0.01, cores=0.1 + IDLE_CORES, startup=(3, 3), replicas_max=3)
"""One worker starts ten tasks a second, and looks after itself."""


def stream(rate: int, seconds: range) -> list[float]:
    return [at + number / rate for at in seconds for number in range(rate)]


def test_nobody_needs_less_than_one_worker_for_what_one_can_do() -> None:
    assert fewest_worker_seconds(QUIET, stream(10, range(40))) == 40


def test_a_second_worker_is_paid_for_from_its_creation_and_for_as_long_as_needed() -> None:
    busy = stream(10, range(40)) + stream(10, range(10, 20))  # 100 more; 50 of them may wait until the end of the trace
    found = fewest_worker_seconds(QUIET, busy)
    assert 40 + 3 + 5 <= found <= 40 + 3 + 10


def test_waiting_that_the_promise_allows_costs_nothing() -> None:
    burst = [10.0] * 50
    assert fewest_worker_seconds(QUIET, burst) == 40
    assert fewest_worker_seconds(replace(QUIET, max_wait=2), burst) > 40


def test_what_is_left_at_the_end_costs_what_it_takes() -> None:
    assert fewest_worker_seconds(QUIET, [39.0] * 50) == pytest.approx(44)


def test_a_promise_that_no_fleet_can_keep_has_no_optimum() -> None:
    assert fewest_worker_seconds(QUIET, [10.0] * 1000) == float("inf")


def test_a_fleet_that_sleeps_costs_nothing_until_the_first_message() -> None:
    asleep = replace(QUIET, start_replicas=0)
    assert fewest_worker_seconds(asleep, [30.0]) == 3 + 10
