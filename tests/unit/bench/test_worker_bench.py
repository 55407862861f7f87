"""The benches of the worker: what they promise in their last line, and how they count."""

from __future__ import annotations

import ast
import json
import sys

import pytest

from bench.feedhub import __main__ as feedhub
from bench.feedhub.server import BODY, LATENCY_SECONDS, latency_seconds
from bench.worker import __main__ as worker
from bench.worker import trickle
from charts.gates.parts import REPOSITORY
from tools.audit import pins


def row(label: str, threads: int, feeds: float, cpu_ms: float, megabytes: float) -> feedhub.Row:
    return feedhub.Row(label, threads, feeds, cpu_ms, feeds * cpu_ms / 1000, megabytes, megabytes)


def test_the_last_line_has_every_key_even_if_nothing_was_measured() -> None:
    assert {
        "agent_cpu_overhead",
        "rabbitmq_speedup_vs_default",
        "redis_speedup_vs_stock",
        "redis_vs_dramatiq",
        "rabbitmq_vs_dramatiq",
    } <= worker.summary({}).keys()
    found = feedhub.summary([])
    assert {"feeds_per_second", "vs_prefork_per_core", "vs_dramatiq", "vs_raw_greenpool"} <= found.keys()
    assert all(
        found[key] is None for key in ("feeds_per_second", "vs_prefork_per_core", "vs_dramatiq", "vs_raw_greenpool")
    )
    json.dumps(found)


def test_dramatiq_is_compared_at_its_fastest() -> None:
    results = {
        ("redis", worker.OURS): [
            worker.Result(3000, 0.2, 60),
            worker.Result(5000, 0.1, 60),
            worker.Result(4000, 0.15, 60),
        ],
        ("redis", worker.GEVENT): [worker.Result(2000, 0.3, 60)],
        ("redis", worker.THREADS): [worker.Result(5000, 0.2, 60)],
    }
    found = worker.summary(results)
    assert found["redis_vs_dramatiq"] == 0.8
    assert found["redis_vs_dramatiq_gevent"] == 2.0


def test_a_trickle_is_told_as_ratios_of_medians() -> None:
    def life(start: float, rest: float, cores: float) -> trickle.Result:
        return trickle.Result(start, rest, dict.fromkeys(trickle.RATES, cores))

    ours = trickle.median([life(0.9, 0.008, 0.02), life(0.8, 0.009, 0.01), life(0.7, 0.02, 0.03)])
    found = trickle.summary({trickle.OURS: ours, trickle.TUNED: life(1.0, 0.001, 0.04)})
    assert (found["start_cpu_vs_stock"], found["rest_millicores"], found["cpu_vs_stock_at_6"]) == (0.8, 9.0, 0.5)


def test_ratios_of_the_feed_hub_are_the_worst_ones() -> None:
    rows = [
        row("raw GreenPool", 100, 800, 0.4, 40),
        row("raw GreenPool", 500, 2000, 0.4, 40),
        row("this worker, Redis", 100, 760, 0.6, 60),
        row("this worker, RabbitMQ", 100, 720, 0.7, 60),
        row("this worker, Redis", 500, 1500, 0.6, 60),
        row("dramatiq-gevent, Redis", 500, 1000, 0.6, 60),
        row("dramatiq-gevent, RabbitMQ", 100, 800, 0.6, 60),
        row("stock prefork 2, RabbitMQ", 2, 16, 2.0, 100),
        row("stock prefork 8, RabbitMQ", 8, 60, 2.0, 300),
    ]
    found = feedhub.summary(rows)
    assert found["feeds_per_second"] == 1500
    assert found["vs_raw_greenpool"] == 0.9, "only where less than 70 % of a core is used: not the 0.75 of 500 threads"
    assert found["vs_dramatiq"] == 0.9
    assert found["vs_prefork_per_core"] == pytest.approx(1500 / 8)


def test_a_feed_takes_always_the_same_time_within_the_range() -> None:
    low, high = LATENCY_SECONDS
    found = [latency_seconds(number) for number in range(10_000)]
    assert low <= min(found) and max(found) <= high
    assert sum(found) / len(found) == pytest.approx((low + high) / 2, rel=0.01)
    assert 3_900 <= len(BODY) <= 4_400


@pytest.mark.parametrize("bench", ["worker", "feedhub"])
def test_what_a_bench_imports_is_in_its_lock(bench: str) -> None:
    """The benches run in an environment of their own: what they borrow from the tests brings its imports with it."""
    lock = (REPOSITORY / "requirements/bench.lock").read_text(encoding="utf-8")
    locked = {pin.name.replace("-", "_") for pin in pins(lock)}
    assert "prometheus_client" in (imported := third_party(f"bench.{bench}.__main__"))
    assert imported <= locked


def third_party(start: str) -> set[str]:
    """Packages that are imported once module *start* is, by what is written at the top of it and of our modules."""
    found: set[str] = set()
    left, seen = [start], set[str]()
    while left:
        path = REPOSITORY.joinpath(*(name := left.pop()).split("."))
        path = next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.exists()), path)
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            left += names
            found |= {each.split(".")[0] for each in names}
    ours = {path.stem for path in REPOSITORY.iterdir()} | {"greenworker", "greenfleet"}
    return found - ours - sys.stdlib_module_names
