"""Traces that nobody tuned to: the same seed always makes the same trace.

A trace is an application (run time, CPU per task, cores, start-up, prefetch, objective), a load shape, and up to three
events. Quantities that span orders of magnitude are drawn log-uniformly. A draw that needs more than 70 % of the
largest fleet, or more messages than a simulation can afford, is drawn anew, so an autoscaler that is right violates
little.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .fleet import task_cores
from .traces import Change, Outage, Segment, Trace, value_at

TUNING_SEEDS = range(1, 201)
"""What the autoscaler may be tuned with."""
HOLDOUT_SEEDS = range(1001, 1201)
"""What it is judged by: looked at once, at the end."""

RUNTIME_SECONDS = 0.05, 60.0
CPU_SECONDS = 0.0003, 0.08
CORES = 0.1, 1.0
STARTUP_SECONDS = 2.0, 40.0
LOAD_WORKERS = (0.02, 0.7), (0.7, 2.0), (1.5, 4.0), (3.0, 7.0)
"""The usual load, in workers whose cores are full: a trace keeps its range, however often it is drawn anew."""
MESSAGES_MOST = 20_000
MESSAGES_LEAST = 60
MAX_WAITS = 15.0, 30.0, 30.0, 30.0, 60.0, 60.0, 120.0
PREFETCH = 1, 1, 10, 100
THREADS_MOST = 1000
"""`greenThreads.max`: what one worker can run at once."""
FLEET_SHARE = 0.7
"""Of the largest fleet, what the highest rate may need."""
BUSY_SECONDS = 420.0, 600.0
"""Seconds with arrivals. A silence follows in which everything can end, so that no autoscaler saves by leaving work
behind.
"""
WARMUP_SECONDS = 60.0
TRIES = 1000


@dataclass(frozen=True, slots=True)
class _App:
    """One draw: the trace without arrivals, and what one worker of it does."""

    trace: Trace
    end: float
    """When the arrivals end."""
    rate: float
    """Tasks per second of one worker at its best."""
    load: float
    """Usual arrivals per second."""


def generate(seed: int) -> Trace:
    """The trace of this seed."""
    draw = random.Random(f"greenfleet/trace/{seed}")
    load = draw.choice(LOAD_WORKERS)
    for _ in range(TRIES):
        trace = _shaped(draw, _app(draw, seed, load))
        if _affordable(trace):
            return trace
    raise AssertionError(f"no affordable trace in {TRIES} draws of seed {seed}")


def document(trace: Trace) -> dict[str, Any]:
    """The trace as its JSON document, without what equals the defaults."""
    defaults = {field.name: field.default for field in fields(Trace)}
    whole = asdict(trace)
    kept = {key: value for key, value in whole.items() if key not in defaults or getattr(trace, key) != defaults[key]}
    for key in ("arrivals", "changes", "outages"):
        if key in kept:
            kept[key] = [_sparse(entry) for entry in whole[key]]
    return kept


def _sparse(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None and (key == "at" or value != 0.0)}


def _log(draw: random.Random, low: float, high: float) -> float:
    return float(f"{math.exp(draw.uniform(math.log(low), math.log(high))):.4g}")


def _uniform(draw: random.Random, low: float, high: float) -> float:
    return round(draw.uniform(low, high), 2)


def _app(draw: random.Random, seed: int, load: tuple[float, float]) -> _App:
    soonest = _log(draw, *STARTUP_SECONDS)
    latest = min(STARTUP_SECONDS[1], round(soonest * draw.uniform(1.1, 2.0), 2))
    in_time = draw.random() < 0.85
    max_wait = draw.choice([wait for wait in MAX_WAITS if not in_time or wait >= latest + 10])
    end = WARMUP_SECONDS + round(draw.uniform(*BUSY_SECONDS))
    trace = Trace(
        name=f"seed-{seed}",
        seconds=end + max_wait + 40.0,
        arrivals=(),
        warmup=WARMUP_SECONDS,
        max_wait=max_wait,
        runtime=_log(draw, *RUNTIME_SECONDS),
        runtime_spread=_uniform(draw, 0.0, 0.8),
        cpu=_log(draw, *CPU_SECONDS),
        cores=_log(draw, *CORES),
        startup=(soonest, latest),
        prefetch=draw.choice(PREFETCH),
        hub="core",
        drain=300.0,
        cooldown=draw.choice((30.0, 60.0, 120.0, 300.0)),
    )
    rate = _rate(trace, trace.runtime, trace.cpu)
    return _App(trace, end, rate, rate * _log(draw, *load))


def _rate(trace: Trace, runtime: float, cpu: float) -> float:
    """Tasks per second that one worker can do."""
    return min(task_cores(trace) * trace.granted / cpu, THREADS_MOST / runtime)


def _shaped(draw: random.Random, app: _App) -> Trace:
    shape = draw.choice((_constant, _ramp, _swing, _steps, _flash_crowd, _on_off, _bursts))
    trace, about = shape(draw, app)
    for event in draw.sample(EVENTS, draw.choice((0, 1, 1, 2, 3))):
        trace, text = event(draw, replace(app, trace=trace))
        about = f"{about}; {text}"
    return replace(trace, about=about)


def _with(app: _App, *segments: Segment) -> Trace:
    return replace(app.trace, arrivals=(*app.trace.arrivals, *segments))


# --- shapes of the load
# -------------------------------------------------------------------------------------------------


def _constant(draw: random.Random, app: _App) -> tuple[Trace, str]:
    del draw
    return _with(app, Segment(0, app.end, app.load)), "constant rate"


def _ramp(draw: random.Random, app: _App) -> tuple[Trace, str]:
    begin, over = _uniform(draw, 60, 150), _uniform(draw, 30, 250)
    low, high = app.load * draw.uniform(0.05, 0.4), app.load
    low, high = (low, high) if draw.random() < 0.7 else (high, low)
    parts = (
        Segment(0, begin, low),
        Segment(begin, begin + over, low, to_rate=high),
        Segment(begin + over, app.end, high),
    )
    return _with(app, *parts), "ramp"


def _swing(draw: random.Random, app: _App) -> tuple[Trace, str]:
    swing = Segment(0, app.end, app.load, swing=_uniform(draw, 0.3, 1.0), period=_uniform(draw, 60, 480))
    return _with(app, swing), "swing"


def _steps(draw: random.Random, app: _App) -> tuple[Trace, str]:
    parts, at = [], 0.0
    while at < app.end:
        until = min(app.end, at + _uniform(draw, 40, 180))
        parts.append(Segment(at, until, app.load * draw.uniform(0.05, 1.3)))
        at = until
    return _with(app, *parts), "steps"


def _flash_crowd(draw: random.Random, app: _App) -> tuple[Trace, str]:
    at, lasts = _uniform(draw, 90, 250), _uniform(draw, 40, 200)
    low = app.load * draw.uniform(0.05, 0.3)
    parts = (Segment(0, app.end, low), Segment(at, min(app.end, at + lasts), app.load))
    return _with(app, *parts), "flash crowd"


def _on_off(draw: random.Random, app: _App) -> tuple[Trace, str]:
    """From zero workers, in a pool that goes back to zero where the silence lasts."""
    parts, at = [], _uniform(draw, 65, 100)
    while at < app.end - 20:
        until = min(app.end, at + _uniform(draw, 10, 90))
        parts.append(Segment(at, until, app.load))
        at = until + _uniform(draw, 60, 240)
    trace = replace(_with(app, *parts), start_replicas=0, cooldown=draw.choice((30.0, 60.0)))
    return trace, "on and off from zero"


def _bursts(draw: random.Random, app: _App) -> tuple[Trace, str]:
    """As a cron job publishes them, over a little of everything else."""
    every, first = _uniform(draw, 45, 240), _uniform(draw, 70, 120)
    size = _burst_size(draw, app)
    count = int((app.end - first) / every) + 1
    parts = (Segment(first + every * i, burst=size, over=_uniform(draw, 0.5, 5)) for i in range(count))
    return _with(app, Segment(0, app.end, app.load * draw.uniform(0.02, 0.2)), *parts), "bursts again and again"


def _burst_size(draw: random.Random, app: _App) -> int:
    """What a part of the largest fleet can start in time, its start-up taken off."""
    seconds = max(0.3 * app.trace.max_wait, app.trace.max_wait - app.trace.startup[1])
    return max(5, round(app.rate * seconds * _log(draw, 0.1, 0.4 * app.trace.replicas_max)))


# --- events
# -------------------------------------------------------------------------------------------------------------


def _one_burst(draw: random.Random, app: _App) -> tuple[Trace, str]:
    burst = Segment(_uniform(draw, 80, app.end - 60), burst=_burst_size(draw, app), over=_uniform(draw, 0.5, 10))
    return _with(app, burst), "a burst"


def _prometheus_away(draw: random.Random, app: _App) -> tuple[Trace, str]:
    at = _uniform(draw, 70, app.end - 100)
    outage = Outage(at, at + _uniform(draw, 20, 120))
    return replace(app.trace, outages=(*app.trace.outages, outage)), "an outage of Prometheus"


def _changed(draw: random.Random, app: _App, **values: float) -> Trace:
    change = Change(_uniform(draw, 80, app.end - 60), over=draw.choice((0.0, _uniform(draw, 5, 120))), **values)
    return replace(app.trace, changes=(*app.trace.changes, change))


def _other_run_time(draw: random.Random, app: _App) -> tuple[Trace, str]:
    low, high = RUNTIME_SECONDS
    return _changed(draw, app, runtime=min(high, max(low, app.trace.runtime * _log(draw, 0.2, 10)))), "another run time"


def _other_cpu(draw: random.Random, app: _App) -> tuple[Trace, str]:
    low, high = CPU_SECONDS
    return _changed(draw, app, cpu=min(high, max(low, app.trace.cpu * _log(draw, 0.25, 4)))), "another CPU per task"


def _blocking(draw: random.Random, app: _App) -> tuple[Trace, str]:
    """The hub is blocked for 2 to 15 % of the time at the full rate."""
    seconds = _uniform(draw, 0.2, 1.5)
    share = _uniform(draw, 0.02, 0.15) / seconds / app.rate
    trace = replace(app.trace, blocking_seconds=seconds)
    return _changed(draw, replace(app, trace=trace), blocking=min(0.2, share)), "tasks that block the hub"


def _slow_downstream(draw: random.Random, app: _App) -> tuple[Trace, str]:
    """It bears the usual load, but a fleet at its largest slows it down."""
    bears = app.load * app.trace.runtime * _uniform(draw, 1.1, 3.0)
    return replace(app.trace, downstream=max(2.0, bears)), "a slow downstream"


def _full_downstream(draw: random.Random, app: _App) -> tuple[Trace, str]:
    """For a while it bears less than arrives, then it recovers."""
    at = _uniform(draw, 80, app.end - 120)
    usual = max(2.0, app.load * app.trace.runtime * 4)
    bears = max(1.0, app.load * app.trace.runtime * _uniform(draw, 0.4, 0.95))
    phases = (Change(at, downstream=bears), Change(at + _uniform(draw, 20, 120), downstream=usual))
    return replace(app.trace, downstream=usual, changes=(*app.trace.changes, *phases)), "a full downstream"


def _short_node(draw: random.Random, app: _App) -> tuple[Trace, str]:
    return replace(app.trace, granted=_uniform(draw, 0.5, 0.9)), "a node short of CPU"


def _stuck_pods(draw: random.Random, app: _App) -> tuple[Trace, str]:
    return replace(app.trace, stuck_pods=_uniform(draw, 0.05, 0.3)), "pods that never become Ready"


EVENTS = (
    _one_burst,
    _one_burst,
    _prometheus_away,
    _other_run_time,
    _other_cpu,
    _blocking,
    _slow_downstream,
    _full_downstream,
    _short_node,
    _stuck_pods,
)


# --- what can be afforded
# -----------------------------------------------------------------------------------------------


def _affordable(trace: Trace) -> bool:
    expected = sum(_messages(segment) for segment in trace.arrivals)
    if not MESSAGES_LEAST <= expected <= MESSAGES_MOST:
        return False
    moments = [0.0, *(change.at + change.over + 1 for change in trace.changes)]
    slowest = min(_rate(trace, value_at(trace, "runtime", at), value_at(trace, "cpu", at)) for at in moments)
    bursts = sum(segment.burst for segment in trace.arrivals) / trace.seconds
    highest = max((_highest(trace, at) for at in range(0, int(trace.seconds), 10)), default=0.0) + bursts
    return highest <= FLEET_SHARE * trace.replicas_max * slowest


def _messages(segment: Segment) -> float:
    to_rate = segment.rate if segment.to_rate is None else segment.to_rate
    return segment.burst + (segment.rate + to_rate) / 2 * max(0.0, segment.until - segment.at)


def _highest(trace: Trace, at: float) -> float:
    """Messages per second that arrive then, at most."""
    present = [segment for segment in trace.arrivals if segment.at <= at < segment.until]
    return sum(max(segment.rate, segment.to_rate or 0.0) * (1 + segment.swing) for segment in present)
