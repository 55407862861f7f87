"""Writes the trace files next to it: `python bench/traces/make.py`. The JSON files are what is used; this is where they
come from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

TRACES: list[dict[str, Any]] = [
    {
        "name": "steady",
        "about": "A constant stream of one and a third workers.",
        "seconds": 600,
        "arrivals": [{"at": 0, "until": 540, "rate": 90}, {"at": 540, "rate": 10}],
    },
    {
        "name": "ramp",
        "about": "From little to much in five minutes.",
        "seconds": 660,
        "arrivals": [
            {"at": 0, "until": 120, "rate": 10},
            {"at": 120, "until": 420, "rate": 10, "to_rate": 240},
            {"at": 420, "until": 570, "rate": 240},
            {"at": 570, "rate": 10},
        ],
    },
    {
        "name": "wave",
        "about": "A day in ten minutes.",
        "seconds": 660,
        "arrivals": [{"at": 0, "until": 600, "rate": 100, "swing": 0.9, "period": 540}, {"at": 600, "rate": 10}],
    },
    {
        "name": "burst",
        "about": "Quiet, then 6,000 messages at once, then quiet.",
        "seconds": 420,
        "burst_at": 120,
        "arrivals": [{"at": 0, "rate": 5}, {"at": 120, "burst": 6000, "over": 3}],
    },
    {
        "name": "flash-crowd",
        "about": "Ten times the load within ten seconds, for three minutes.",
        "seconds": 480,
        "burst_at": 120,
        "arrivals": [
            {"at": 0, "until": 120, "rate": 25},
            {"at": 120, "until": 130, "rate": 25, "to_rate": 250},
            {"at": 130, "until": 310, "rate": 250},
            {"at": 310, "rate": 25},
        ],
    },
    {
        "name": "sawtooth",
        "about": "1,500 messages every minute, as a cron job publishes them.",
        "seconds": 540,
        "arrivals": [{"at": 0, "rate": 3}, *({"at": at, "burst": 1500, "over": 2} for at in range(75, 540, 60))],
    },
    {
        "name": "slow-poison",
        "about": "The run time grows tenfold within two minutes.",
        "seconds": 600,
        "arrivals": [{"at": 0, "rate": 40}],
        "changes": [{"at": 150, "over": 120, "runtime": 20}],
    },
    {
        "name": "cpu-growth",
        "about": "CPU per task triples within a minute.",
        "seconds": 660,
        "arrivals": [{"at": 0, "until": 570, "rate": 80}, {"at": 570, "rate": 10}],
        "changes": [{"at": 180, "over": 60, "cpu": 0.009}],
    },
    {
        "name": "blocking",
        "about": "One task in 200 begins to block the hub for a second.",
        "seconds": 540,
        "arrivals": [{"at": 0, "until": 480, "rate": 60}, {"at": 480, "rate": 10}],
        "changes": [{"at": 150, "blocking": 0.005}],
    },
    {
        "name": "outage",
        "about": "Prometheus is away for two minutes while the load doubles.",
        "seconds": 600,
        "arrivals": [
            {"at": 0, "until": 540, "rate": 80},
            {"at": 200, "until": 450, "rate": 60},
            {"at": 540, "rate": 10},
        ],
        "outages": [{"at": 180, "until": 300}],
    },
    {
        "name": "on-off",
        "about": "From zero: half a minute of work every three minutes or so.",
        "seconds": 900,
        "start_replicas": 0,
        "burst_at": 120,
        "arrivals": [
            {"at": 120, "until": 150, "rate": 100},
            {"at": 560, "until": 590, "rate": 100},
        ],
    },
    {
        "name": "slow-downstream",
        "about": "The downstream bears 250 tasks at a time; more only slows all of them down.",
        "seconds": 480,
        "downstream": 250,
        "arrivals": [
            {"at": 0, "until": 150, "rate": 60},
            {"at": 150, "until": 270, "rate": 140},
            {"at": 270, "rate": 60},
        ],
    },
    {
        "name": "slow-start",
        "about": "The flash crowd and a burst with pods that need 20-40 s to start.",
        "seconds": 600,
        "startup": [20, 40],
        "max_wait": 60,
        "burst_at": 120,
        "arrivals": [
            {"at": 0, "rate": 25},
            {"at": 120, "until": 300, "rate": 175},
            {"at": 420, "burst": 6000, "over": 3},
        ],
    },
]


def main() -> None:
    """Write every trace to its file."""
    for trace in TRACES:
        (HERE / f"{trace['name']}.json").write_text(json.dumps(trace, indent=1) + "\n")


if __name__ == "__main__":
    main()
