"""Writes the table of the fault runs on a cluster in docs/reliability.md from the JSON lines of the runs.

python -m tests.faults.cluster.table                # from tests/faults/cluster/runs.jsonl
python -m tests.faults.cluster.table LOG.jsonl …    # adds the runs of these logs first
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faults.cluster.nemesis import KINDS
from tests.faults.cluster.run import BROKERS
from tests.faults.table import COUNTED, COUNTED_LATER, TITLES, causes_of, main

RUNS = Path(__file__).with_name("runs.jsonl")
BEGIN, END = "<!-- cluster runs: python -m tests.faults.cluster.table -->", "<!-- end of cluster runs -->"
WHAT = {
    "pod_deleted": "a worker's pod is deleted",
    "pod_evicted": "a worker's pod is evicted (eviction API)",
    "worker_killed": "a worker's process gets SIGKILL",
    "worker_out_of_memory": "a task takes its worker's memory: OOMKilled",
    "node_drained": "the node is cordoned, drained of all of Greenfleet, and uncordoned",
    "scale_in": "the autoscaler adds workers, and takes them away while tasks run",
    "rollout_env": "another variable: all workers are replaced",
    "rollout_image": "another image: all workers are replaced",
    "deployment_deleted": "the workers' Deployment is deleted",
    "deployment_orphaned": "the same with `--cascade=orphan`: the workers stay",
    "pool_deleted": "the pool is deleted, and made again",
    "pool_orphaned": "the same with `--cascade=orphan`: the workers stay",
    "replicas_bound": "`replicas.max` is 1, and then what it was",
    "green_threads_bound": "`greenThreads.max` is 5, and then what it was",
    "operators_killed": "both operators get SIGKILL",
    "operator_out_of_memory": "the operator that leads is OOMKilled",
    "exporter_silent": "the exporter stands still",
    "exporter_out_of_memory": "the exporter is OOMKilled",
    "prometheus_down": "Prometheus is gone, with its samples",
    "prometheus_disk_full": "Prometheus' disk is full",
    "api_server_away": "the API server is away for 60 s",
}
"""Each kind, for people."""

EXPLAINS = {"sigkill": "worker_killed", "out_of_memory": "worker_out_of_memory"}
"""How the checker calls what explains a repetition, and the fault that it is."""

Run = Mapping[str, Any]


def compact(line: Run) -> dict[str, Any]:
    """What the table needs of a line of `tests.faults.cluster.run`."""
    causes = Counter(kind for told in line["twice"].values() for kind in causes_of(told))
    counts = {name: line.get(name, 0) for name in (*COUNTED, *COUNTED_LATER)}
    return {
        **{name: line[name] for name in ("started", "seconds", "per_second", "broker", "seed", "faults")},
        **{name: len(value) if isinstance(value, list) else value for name, value in counts.items()},
        "twice": len(line["twice"]),
        "begun_again": line["begun_again"],
        "drained": line["disruptions"].get("drain", 0),
        "again_seconds": line["again_seconds"],
        "causes": dict(sorted(causes.items())),
    }


def table(runs: Sequence[Run]) -> str:
    """The rows of Markdown."""
    brokers = [name for name in BROKERS if any(run["broker"] == name for run in runs)]
    of = {name: [run for run in runs if run["broker"] == name] for name in brokers}
    causes: Counter[str] = Counter()
    for run in runs:
        causes.update({EXPLAINS.get(kind, kind): count for kind, count in run["causes"].items()})
    lines = [
        _row("fault", [TITLES[name] for name in brokers], "done twice", "works again after, at most"),
        _row("---", ["---"] * len(brokers), "---", "---"),
    ]
    for kind in KINDS:
        tried = [sum(run["faults"].get(kind, 0) for run in of[name]) for name in brokers]
        again = [run["again_seconds"][kind] for run in runs if kind in run["again_seconds"] and kind in run["faults"]]
        if sum(tried):
            longest = f"{math.ceil(max(again))} s" if again else ""
            lines.append(_row(WHAT[kind], [f"{one}" for one in tried], f"{causes.pop(kind, 0)}", longest))
    if other := sum(causes.values()):
        lines.append(_row("(of other causes)", [""] * len(brokers), f"{other}", ""))
    for title, names in (
        ("**faults**", ("faults",)),
        ("workers that drained", ("drained",)),
        ("**tasks confirmed**", ("confirmed",)),
        ("**lost**", ("lost",)),
        ("done twice without a cause", ("unexplained",)),
        ("begun again after a fault", ("begun_again",)),
        ("late", ("late",)),
        ("workers that hung or crashed", ("hung", "crashed")),
        ("results read back", ("read",)),
        ("**results missing or wrong**", ("unread", "wrong")),
        ("acknowledged early, and killed", ("early_lost",)),
    ):
        if not any(name in run for run in runs for name in names):
            continue  # these runs were not judged by it
        sums = [sum(_count(run.get(name, 0)) for run in of[broker] for name in names) for broker in brokers]
        lines.append(_row(title, [f"{one:,}" for one in sums], "", ""))
    days = " and ".join(sorted({str(run["started"])[:10] for run in runs}))
    minutes = sum(run["seconds"] for run in runs) / 60
    how_many = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return "\n".join([f"{how_many} in {minutes:.0f} minutes, of {days}.", "", *lines])


def _count(value: Any) -> int:
    return sum(value.values()) if isinstance(value, dict) else int(value)


def _row(head: str, cells: Iterable[str], *last: str) -> str:
    return f"| {' | '.join([head, *cells, *last])} |"


if __name__ == "__main__":
    main(RUNS, compact, table, begin=BEGIN, end=END)
