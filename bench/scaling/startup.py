"""`python -m bench.scaling.startup`: how long a worker on a tenth of a core takes from its pod's creation to Ready,
with and without a boost.

Two pools that differ in `worker.startupBoost` alone start one worker each in turn, on this machine's cluster. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.scaling import live
from bench.scaling.fleets import OURS, POOL, Fleet, pool_body, surroundings
from demo import stage
from demo.api import Api, ApiError, pool_path
from demo.shell import StepError
from demo.stage import until
from greenfleet.simulator.traces import Trace, load

TRACE = Path(__file__).parent / "traces" / "steady.json"
BOOSTS = {"boosted": "1", "plain": "0"}
_LOOK_SECONDS = 0.05
_PATIENCE_SECONDS = 120.0


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.startup", description=__doc__)
    parser.add_argument("--starts", type=int, default=5, help="of each pool")
    options = parser.parse_args()
    fleets = [Fleet(label, OURS, index) for index, label in enumerate(BOOSTS)]
    try:
        seconds = _measure(fleets, load(TRACE), options.starts)
    except (StepError, ApiError) as error:
        print(f"The bench cannot go on: {error}", file=sys.stderr)
        return 1
    for label, took in seconds.items():
        print(f"{label:8} median {median(took):.1f} s   " + " ".join(f"{one:.1f}" for one in sorted(took)))
    ratio = median(seconds["boosted"]) / median(seconds["plain"])
    print(json.dumps({"startup_s": seconds, "boosted_to_plain": round(ratio, 2)}))
    return 0


def _measure(fleets: list[Fleet], trace: Trace, starts: int) -> dict[str, list[float]]:
    place = stage.local()
    api = Api(place.kubeconfig)
    stage.install_charts(place, api, stage.build_images(lambda name: None))
    cluster = live.Cluster(api, place.kubeconfig.parent / "logs")
    seconds: dict[str, list[float]] = {fleet.label: [] for fleet in fleets}
    try:
        for fleet in fleets:
            for path, manifest in surroundings(fleet):
                api.apply(path, manifest)
            _scale(api, fleet, trace, 0)
        for _ in range(starts + 1):
            for fleet in fleets:
                seconds[fleet.label].append(round(_start(api, fleet, trace), 2))
    finally:
        live.remove(cluster, fleets)
    return {label: took[1:] for label, took in seconds.items()}  # the first one finds cold caches


def _scale(api: Api, fleet: Fleet, trace: Trace, workers: int) -> None:
    body = pool_body(fleet, trace)
    body["spec"]["worker"]["startupBoost"] = {"cpu": BOOSTS[fleet.label]}
    body["spec"]["scaling"]["mode"] = "Manual"
    body["spec"]["manualReplicas"] = workers
    api.apply(pool_path(fleet.namespace, POOL), body)


def _pods(api: Api, fleet: Fleet) -> list[dict[str, Any]]:
    return api.items(f"/api/v1/namespaces/{fleet.namespace}/pods", labelSelector=live.WORKERS)


def _start(api: Api, fleet: Fleet, trace: Trace) -> float:
    """Seconds from the first sight of a new worker's pod until it is Ready; the pod is gone afterwards."""
    _scale(api, fleet, trace, 1)
    created: float | None = None
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        pods = _pods(api, fleet)
        if pods and created is None:
            created = time.monotonic()
        if created is not None and any(map(live.is_ready, pods)):
            took = time.monotonic() - created
            _scale(api, fleet, trace, 0)
            if not until(lambda: not _pods(api, fleet), _PATIENCE_SECONDS):
                raise StepError(f"the worker of {fleet.namespace} does not leave")
            return took
        time.sleep(_LOOK_SECONDS)
    raise StepError(f"the worker of {fleet.namespace} is not Ready after {_PATIENCE_SECONDS:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
