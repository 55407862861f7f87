"""One run on the machine's own cluster: a pool of workers (`stage`), a workload, what Kubernetes and the operator do to
it (`nemesis`), and the verdict on what became of each task (`tests.faults.history`). The last line is one JSON object.

    python -m tests.faults.cluster.run --broker redis --seed 7
    python -m tests.faults.cluster.run --broker quorum --seed 7 --kinds pod_evicted,api_server_away

A run that broke the promise keeps its directory: `journal` is the producer's, `ledger/done` the tasks' own log, `logs`
has what the containers said, and
`python -m tests.faults.again DIRECTORY` judges it once more. It needs root, as the cluster does.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from demo.api import ApiError
from greenfleet.status.times import unix_time
from tests.faults.again import History, as_line
from tests.faults.cluster.nemesis import AGAIN_SECONDS, KINDS, SHORT_KINDS, Attempt, Nemesis
from tests.faults.cluster.stage import NAMESPACE, Kubernetes, Stage, prepare
from tests.faults.fleet import until_all_consume
from tests.faults.history import Disruption, Verdict, killed_by_probe
from tests.faults.results import read_back
from tests.faults.run import LATE_SECONDS, QUIET_SECONDS, about, conclude, until_quiet
from tests.faults.whereabouts import depths, messages, tell
from tests.faults.workload import Workload
from tests.integration.worker.harness import RabbitMQ

BROKERS = ("redis", "quorum")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The verdict on the tasks, and what became of the faults."""

    verdict: Verdict
    attempts: Sequence[Attempt]

    @property
    def faults(self) -> dict[str, int]:
        """How often each kind was proven to have happened."""
        found: dict[str, int] = {}
        for one in self.attempts:
            if not one.error:
                found[one.kind] = found.get(one.kind, 0) + 1
        return dict(sorted(found.items()))

    @property
    def unproven(self) -> list[str]:
        """Faults that do not count, and why."""
        return [f"{one.kind}: {one.error}" for one in self.attempts if one.error]

    @property
    def broken(self) -> list[str]:
        """After which faults the pool did not work again in time, and what its status did not say."""
        slow = [
            f"{one.kind}: the pool did not work again within {AGAIN_SECONDS:.0f} s"
            for one in self.attempts
            if one.again_seconds is None
        ]
        return slow + [f"{one.kind}: {one.unsaid}" for one in self.attempts if one.unsaid]

    @property
    def kept(self) -> bool:
        """Whether every promise held."""
        return self.verdict.kept and not self.broken

    def as_line(self, broker: str, seed: int) -> dict[str, Any]:
        """What a run prints."""
        return {
            **as_line(broker, seed, self.verdict),
            "kept": self.kept,
            "faults": self.faults,
            "unproven": self.unproven,
            "broken": self.broken,
            "again_seconds": {
                one.kind: round(one.again_seconds, 1) for one in self.attempts if one.again_seconds is not None
            },
            "proof": {one.kind: one.proof for one in self.attempts if one.proof},
        }


def run(
    kubernetes: Kubernetes,
    broker: str,
    directory: Path,
    *,
    seed: int,
    kinds: Sequence[str] = KINDS,
    seconds: float = float("inf"),
    per_second: float = 8.0,
) -> Outcome:
    """Each of *kinds* once, as far as they fit in *seconds*. Raises AssertionError if the pool does not start."""
    rng = random.Random(seed)
    stage = Stage(kubernetes, broker, directory, small_disk="prometheus_disk_full" in kinds)
    options: dict[str, Any] = {"priority_steps": [0, 3, 6, 9]}
    if isinstance(stage.server, RabbitMQ):
        options["confirm_publish"] = True
    producer = stage.lane.producer(result_backend=stage.results.url, broker_transport_options=options)
    workload = Workload(producer, directory / "journal", random.Random(rng.random()), per_second)
    nemesis = Nemesis(stage, workload, producer, random.Random(rng.random()))
    began = monotonic()
    try:
        stage.start()
        workload.start()
        stage.await_(lambda: stage.works(began), "each worker has begun a task", AGAIN_SECONDS)
        nemesis.run(kinds, began + seconds, _tell)
        until_all_consume(stage)
        workload.stop()
        sent = list(workload.sent.values())
        due = monotonic() + QUIET_SECONDS
        overdue = until_quiet(stage, sent, due)
        known = [f"{name}: {ready} ready, {held} held" for name, (ready, held) in depths(stage.server).items()]
        if overdue:
            until_quiet(stage, sent, due + LATE_SECONDS, progress_seconds=LATE_SECONDS)
        sleep(1.0)
        events = stage.events()
        disruptions = [*nemesis.finish(), *_probed(stage, events)]
        done = {event.identity for event in events if event.what == "done"}
        task_ids = {identity: one for identity, one in workload.task_ids.items() if identity in done}
        readings = read_back(stage.results.url, task_ids, due + LATE_SECONDS)
        history = History(broker, seed, sent, disruptions, due, processes=stage.records(), readings=readings)
        verdict = history.judge(events)
        if verdict.lost:
            known += tell(verdict.lost, sent, events, messages(stage.server), {})
            verdict = dataclasses.replace(verdict, whereabouts=tuple(known))
    finally:
        with suppress(RuntimeError):  # it has been told above
            workload.stop()
        stage.stop()
    history.save(directory / "history.json")
    shutil.copy(stage.done_file, directory / "done")  # where `tests.faults.again` looks for it
    outcome = Outcome(verdict, nemesis.attempts)
    (directory / "verdict.json").write_text(json.dumps(outcome.as_line(broker, seed)))
    return outcome


def _tell(attempt: Attempt) -> None:
    """One line on standard error for each fault."""
    again = "not again in time" if attempt.again_seconds is None else f"again after {attempt.again_seconds:.1f} s"
    took = f"{attempt.end - attempt.start:.1f} s"
    said = attempt.error and f"does not count: {attempt.error}"
    print(f"{attempt.kind}: {said or attempt.proof} ({took}); {again} {attempt.unsaid}", file=sys.stderr, flush=True)


def _probed(stage: Stage, events: Sequence[Any]) -> list[Disruption]:
    """Workers that kubelet has ended because their liveness probe failed, as its Events say."""
    found = []
    try:
        said = stage.api.items(f"/api/v1/namespaces/{NAMESPACE}/events", fieldSelector="reason=Killing")
    except ApiError:
        return []
    offset = monotonic() - datetime.now(UTC).timestamp()
    for one in said:
        if "failed liveness probe" in one.get("message", "") and one.get("lastTimestamp"):
            at = unix_time(one["lastTimestamp"]) + offset
            name = one["involvedObject"]["name"]
            stage.book.probed(name, at)
            found.append(killed_by_probe(name, at + 16.0, events))  # SIGKILL comes 15 s after SIGTERM
    return found


def main() -> int:
    """0 if the promise held and every fault happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--broker", choices=BROKERS, default="redis")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--kinds", default=",".join(KINDS), help="`short`: those of the short form")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no fault later than that")
    parser.add_argument("--per-second", type=float, default=8.0)
    chosen = parser.parse_args()
    kinds = SHORT_KINDS if chosen.kinds == "short" else chosen.kinds.split(",")
    directory = Path(tempfile.mkdtemp(prefix="greenfleet-cluster-faults-"))
    started, start = datetime.now(UTC), monotonic()
    outcome = run(
        prepare(), chosen.broker, directory / "run", seed=chosen.seed, kinds=kinds, seconds=chosen.seconds,
        per_second=chosen.per_second,
    )  # fmt: skip
    line = about(started, start, 1, chosen.per_second) | outcome.as_line(chosen.broker, chosen.seed)
    return conclude(line, directory, kept=outcome.kept and not outcome.unproven)


if __name__ == "__main__":
    sys.exit(main())
