"""Traces: what arrives when, what the tasks are like, and what goes wrong, as small JSON files.

    {"name": "burst", "seconds": 600, "arrivals": [{"at": 60, "until": 600, "rate": 20}, {"at": 120, "burst": 12000,
    "over": 4}]}

`arrivals` are segments that add up: a rate (`rate`, or from `rate` to `to_rate`; `swing` and `period` lay a sine over
it) or a `burst` published `over` some seconds. The same file drives the simulator and the bench on a real cluster.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

HUBS = ("fetch", "core")
CHANGING = ("runtime", "cpu", "blocking", "downstream")
"""What may change under way."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the arrivals."""

    at: float
    until: float = 0.0
    rate: float = 0.0
    """Messages per second."""
    to_rate: float | None = None
    """The rate at the end; the rate changes evenly."""
    swing: float = 0.0
    """Amplitude of a sine, as a fraction of the rate."""
    period: float = 60.0
    """Seconds of one sine."""
    burst: int = 0
    """Messages, evenly spread over `over` seconds."""
    over: float = 1.0


@dataclass(frozen=True, slots=True)
class Change:
    """From `at` on (reached evenly over `over` seconds) the tasks are different."""

    at: float
    over: float = 0.0
    runtime: float | None = None
    cpu: float | None = None
    blocking: float | None = None
    downstream: float | None = None


@dataclass(frozen=True, slots=True)
class Outage:
    """Prometheus does not answer."""

    at: float
    until: float


@dataclass(frozen=True, slots=True)
class Trace:
    """One experiment. Times in seconds from its start; the first `warmup` seconds are not measured."""

    name: str
    seconds: float
    arrivals: tuple[Segment, ...]
    about: str = ""
    warmup: float = 60.0
    max_wait: float = 30.0
    runtime: float = 2.0
    """Mean seconds of I/O of a task."""
    runtime_spread: float = 0.3
    """Standard deviation over mean (lognormal); 0 is constant."""
    cpu: float = 0.003
    """CPU seconds of a task, half before and half after its I/O."""
    cores: float = 0.2
    """CPU limit of a worker."""
    blocking: float = 0.0
    """Fraction of the tasks that block the hub for `blocking_seconds`."""
    blocking_seconds: float = 1.0
    downstream: float | None = None
    """Tasks that the downstream serves at full speed; beyond it I/O slows down in proportion."""
    startup: tuple[float, float] = (3.0, 8.0)
    """Seconds from creation to Ready: uniform between the two."""
    prefetch: int = 1
    """Messages that a worker takes in one turn of its hub: one with Redis, as many as there is room for with AMQP."""
    hub: str = "fetch"
    """Who queues for the CPU, first come, first served. `fetch`: a message before its task starts, so a full hub takes
    fewer. `core`: the task itself, for its CPU before and after its I/O, so that its run time counts the wait for the
    own core.
    """
    hub_lag: float = 0.002
    """With `core`: seconds that each ready green thread runs before it yields, at most; the hub's lag is that times
    their number.
    """
    granted: float = 1.0
    """Share of the CPU limit that the node really gives."""
    stuck_pods: float = 0.0
    """Share of the new pods that never become Ready; the only pod always does."""
    replicas_max: int = 10
    start_replicas: int = 1
    drain: float = 60.0
    cooldown: float = 300.0
    """Seconds without work after which the last worker may go."""
    changes: tuple[Change, ...] = ()
    outages: tuple[Outage, ...] = ()
    burst_at: float | None = None
    """From here the seconds to first and to full capacity are counted."""


def parse(document: dict[str, Any]) -> Trace:
    """A trace from its JSON document; an unknown key is an error that names it."""
    values = dict(document)
    unknown = set(values) - {field.name for field in fields(Trace)}
    if unknown:
        raise ValueError(f"trace {values.get('name')!r} has unknown keys {sorted(unknown)}")
    values["arrivals"] = tuple(Segment(**segment) for segment in values["arrivals"])
    values["changes"] = tuple(Change(**change) for change in values.get("changes", ()))
    values["outages"] = tuple(Outage(**outage) for outage in values.get("outages", ()))
    if values.get("hub", "fetch") not in HUBS:
        raise ValueError(f"trace {values.get('name')!r} has hub {values['hub']!r}: use one of {', '.join(HUBS)}")
    if "startup" in values:
        low, high = values["startup"]
        values["startup"] = (float(low), float(high))
    return Trace(**values)


def load(path: Path) -> Trace:
    """The trace in a file."""
    return parse(json.loads(path.read_text()))


def scaled(trace: Trace, factor: float) -> Trace:
    """The same trace for a fleet that is `factor` times as large: rates, bursts, downstream and the most workers."""
    segments = tuple(
        replace(
            segment,
            rate=segment.rate * factor,
            to_rate=None if segment.to_rate is None else segment.to_rate * factor,
            burst=round(segment.burst * factor),
        )
        for segment in trace.arrivals
    )
    downstream = None if trace.downstream is None else trace.downstream * factor
    return replace(
        trace, arrivals=segments, downstream=downstream, replicas_max=max(1, round(trace.replicas_max * factor))
    )


def arrivals(trace: Trace, seed: int) -> list[float]:
    """Publishing times, sorted: a Poisson stream for the rates (thinning), even spacing for bursts."""
    randomness = random.Random(f"{trace.name}/{seed}/arrivals")
    times: list[float] = []
    for segment in trace.arrivals:
        if segment.burst:
            times.extend(segment.at + segment.over * i / segment.burst for i in range(segment.burst))
        else:
            times.extend(_stream(segment, trace.seconds, randomness))
    return sorted(time for time in times if time < trace.seconds)


def rate_at(segment: Segment, until: float, time: float) -> float:
    """Messages per second of one segment at one time."""
    to_rate = segment.rate if segment.to_rate is None else segment.to_rate
    rate = segment.rate + (to_rate - segment.rate) * (time - segment.at) / max(until - segment.at, 1e-9)
    return max(0.0, rate * (1 + segment.swing * math.sin(2 * math.pi * (time - segment.at) / segment.period)))


def _stream(segment: Segment, end: float, randomness: random.Random) -> list[float]:
    until = segment.until or end
    highest = max(segment.rate, segment.to_rate or 0.0) * (1 + abs(segment.swing))
    times = []
    time = segment.at
    while highest > 0:
        time += randomness.expovariate(highest)
        if time >= until:
            break
        if randomness.random() * highest <= rate_at(segment, until, time):
            times.append(time)
    return times


def value_at(trace: Trace, field: str, time: float) -> float:
    """Run time, CPU or blocking fraction of tasks that start at `time`, or what the downstream bears then (infinite
    without one).
    """
    start = getattr(trace, field)
    value = math.inf if start is None else float(start)
    for change in trace.changes:
        target = getattr(change, field)
        if target is None or time < change.at:
            continue
        share = 1.0 if change.over <= 0 else min(1.0, (time - change.at) / change.over)
        value = target if share >= 1 else value + (target - value) * share
    return value
