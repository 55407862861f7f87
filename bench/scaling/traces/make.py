"""Writes the trace files next to it: `python bench/scaling/traces/make.py`.

They are the traces of `bench/traces` for a machine of two cores that carries the fleets of four autoscalers at once:
the same shapes in two minutes, for workers of a tenth of a core and fleets of at most five. Only what physics leaves
alone is not compressed: how long pods take to start, how long a message may wait, and the minute after which idle
green threads are taken away: a burst comes after that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

COMMON: dict[str, Any] = {
    "seconds": 120,
    "warmup": 20,
    "max_wait": 30,
    "runtime": 2.0,
    "cpu": 0.005,
    "cores": 0.1,
    "startup": [7, 11],
    "replicas_max": 5,
}
"""A worker bears 20 tasks a second, with 40 green threads. `startup` is what was measured; only the simulator reads it
here.
"""

TRACES: list[dict[str, Any]] = [
    {
        "name": "steady",
        "about": "A constant stream of one and a third workers.",
        "arrivals": [{"at": 0, "until": 110, "rate": 26}, {"at": 110, "rate": 3}],
    },
    {
        "name": "ramp",
        "about": "From little to much in a minute.",
        "arrivals": [
            {"at": 0, "until": 25, "rate": 3},
            {"at": 25, "until": 85, "rate": 3, "to_rate": 60},
            {"at": 85, "until": 110, "rate": 60},
            {"at": 110, "rate": 3},
        ],
    },
    {
        "name": "wave",
        "about": "A day in two minutes.",
        "arrivals": [{"at": 0, "until": 110, "rate": 30, "swing": 0.9, "period": 100}, {"at": 110, "rate": 3}],
    },
    {
        "name": "burst",
        "about": "Quiet, then 1,100 messages at once, then quiet.",
        "burst_at": 75,
        "arrivals": [{"at": 0, "rate": 2}, {"at": 75, "burst": 1100, "over": 2}],
    },
    {
        "name": "flash-crowd",
        "about": "Ten times the load within three seconds, for forty.",
        "burst_at": 70,
        "arrivals": [
            {"at": 0, "until": 70, "rate": 6},
            {"at": 70, "until": 73, "rate": 6, "to_rate": 60},
            {"at": 73, "until": 110, "rate": 60},
            {"at": 110, "rate": 6},
        ],
    },
    {
        "name": "sawtooth",
        "about": "300 messages every 20 s, as a cron job publishes them.",
        "arrivals": [{"at": 0, "rate": 1}, *({"at": at, "burst": 300, "over": 1} for at in range(22, 120, 20))],
    },
    {
        "name": "slow-poison",
        "about": "The run time grows tenfold within half a minute.",
        "arrivals": [{"at": 0, "rate": 12}],
        "changes": [{"at": 30, "over": 30, "runtime": 20}],
    },
    {
        "name": "cpu-growth",
        "about": "CPU per task grows to two and a half times as much within a quarter of a minute.",
        "arrivals": [{"at": 0, "until": 110, "rate": 22}, {"at": 110, "rate": 3}],
        "changes": [{"at": 30, "over": 15, "cpu": 0.0125}],
    },
    {
        "name": "blocking",
        "about": "One task in 100 begins to block the hub for a second.",
        "arrivals": [{"at": 0, "until": 110, "rate": 16}, {"at": 110, "rate": 3}],
        "changes": [{"at": 30, "blocking": 0.01}],
    },
    {
        "name": "outage",
        "about": "Prometheus is away for half a minute while the load nearly doubles.",
        "arrivals": [{"at": 0, "until": 110, "rate": 22}, {"at": 40, "until": 100, "rate": 18}, {"at": 110, "rate": 3}],
        "outages": [{"at": 35, "until": 65}],
    },
    {
        "name": "on-off",
        "about": "From zero: ten seconds of work, and again a minute later.",
        "start_replicas": 0,
        "burst_at": 22,
        "arrivals": [{"at": 22, "until": 32, "rate": 50}, {"at": 82, "until": 92, "rate": 50}],
    },
    {
        "name": "slow-downstream",
        "about": "The downstream bears 60 tasks at a time; more only slows all of them down.",
        "downstream": 60,
        "arrivals": [
            {"at": 0, "until": 30, "rate": 15},
            {"at": 30, "until": 70, "rate": 35},
            {"at": 70, "rate": 15},
        ],
    },
    {
        "name": "slow-start",
        "about": "The flash crowd with pods that need 20-40 s longer to start.",
        "startup": [27, 51],
        "max_wait": 60,
        "burst_at": 65,
        "arrivals": [
            {"at": 0, "until": 65, "rate": 6},
            {"at": 65, "until": 95, "rate": 45},
            {"at": 95, "rate": 6},
        ],
    },
]


def main() -> None:
    """Write every trace to its file."""
    for trace in TRACES:
        document = {"name": trace["name"], **COMMON, **trace}
        (HERE / f"{trace['name']}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
