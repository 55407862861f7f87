"""One run: a fleet (`fleet`), a workload (`workload`) and a nemesis (`nemesis`) on one broker, and the verdict on what
became of each task (`history`). The last line is one JSON object.

    python -m tests.faults.run --broker redis --seed 7 --seconds 70

A run that broke the promise keeps its directory: `journal` is the producer's (what it sent, before it sent it),
`done` the tasks' own log, `workers/` has a log for each worker, `verdict.json` is the line above, and `history.json`
has what the verdict was made from (`tests.faults.again` judges it once more).
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from tests.faults.again import History, as_line
from tests.faults.fleet import Fleet, Workers, until_all_consume
from tests.faults.history import Event, Sent, Verdict, parse
from tests.faults.nemesis import UNREACHABLE_SECONDS, Nemesis
from tests.faults.results import read_back
from tests.faults.whereabouts import depths, messages, state, tell
from tests.faults.workload import LONG_SECONDS, Workload
from tests.integration.worker.harness import RabbitMQ, Redis, Relay, Sentinel
from tests.integration.worker.lanes import Lane, RabbitLane, RedisLane

BROKERS = ("redis", "classic", "quorum", "sentinel", "cluster")
QUIET_SECONDS = 75.0
"""So long until everything is done after the last fault: a dead worker's messages are back within 25 s, a connection
that is silent is noticed within 60. What is done after that is late. The long form has longer tasks, and so much more
time.
"""

READY_AGAIN_SECONDS = 60.0
"""So long after a start of RabbitMQ's nodes what they held may become ready: first each queue has to have a leader."""

NOTICED_SECONDS = 30.0
"""So long after the end of all workers a busy broker may take back what they held."""

LATE_SECONDS = 120.0
"""So much longer the run goes on while something is owed: a machine that others use as well is slow. It goes on as long
as something owed is done in every such time, for what waits behind other tasks is late and not lost. Then what is not
done is lost.
"""

LATEST_SECONDS = 900.0
"""So long at most after the time for late tasks: a fleet that has not done in this time what it owes does not do it."""

KINDS = {"cluster": "quorum"}
"""The kind of the queue, where the broker is not named after it."""

DELAYING = ("quorum",)
"""Brokers that delay what has a countdown or an ETA themselves in the long form (native delayed delivery): their queue
is on a topic exchange. After a disturbance RabbitMQ may take three minutes until it tries again
(`dead_letter_worker_publisher_confirm_timeout`), for which the short form has no time.
"""

DISK_BYTES = 256 * 1024 * 1024
"""Of the disk that Redis writes to."""


def run(
    broker: str,
    directory: Path,
    *,
    seed: int,
    rounds: int = 1,
    seconds: float = 0.0,
    per_second: float = 15.0,
    size: int = 3,
    own_clocks: bool = False,
    longest_seconds: float = LONG_SECONDS,
    unreachable_seconds: float = UNREACHABLE_SECONDS,
    delayed: bool = False,
) -> Verdict:
    """Every kind of disruption *rounds* times, or for *seconds* if given. Raises AssertionError if the fleet does not
    start. *longest_seconds*: of some of the long tasks. *unreachable_seconds*: of the broker.
    *delayed*: see `DELAYING`.
    """
    rng = random.Random(seed)
    (directory / "broker").mkdir(parents=True)
    (directory / "results").mkdir()
    disk = broker == "redis" and mount_disk(directory / "broker")
    server, peer = start_broker(broker, directory / "broker")
    results = Redis(directory / "results")
    relay = Relay(server.port)
    lane: Lane = (
        RedisLane(server)
        if not isinstance(server, RabbitMQ)
        else RabbitLane(server, KINDS.get(broker, broker), "topic" if delayed and broker in DELAYING else "direct")
    )
    options: dict[str, Any] = {"priority_steps": [0, 3, 6, 9]}
    through = server.url.replace(f":{server.port}", f":{relay.port}")
    if isinstance(server, RabbitMQ):
        options["confirm_publish"] = True
    if isinstance(server, Sentinel):
        options["master_name"] = server.name
        through = f"{server.url}/0?master_name={server.name}"
    if peer is not None:
        lane.url = peer.url  # the producer's node lives
    chosen = lane.producer(result_backend=results.url, broker_transport_options=options)
    environment = {**lane.environment(), "CELERY_RESULT_BACKEND": results.url}
    fleet = Fleet(through, directory, lane.queue, size, environment, own_clocks=own_clocks)
    workload = Workload(chosen, directory / "journal", random.Random(rng.random()), per_second, longest_seconds)
    nemesis = Nemesis(fleet, server, results, relay, chosen, random.Random(rng.random()), peer, unreachable_seconds)
    try:
        fleet.ready()
        workload.start()
        sleep(2.0)
        nemesis.run(rounds if not seconds else 1_000_000, monotonic() + seconds if seconds else float("inf"))
        until_all_consume(fleet)
        workload.stop()
        sent = list(workload.sent.values())
        due = monotonic() + QUIET_SECONDS + longest_seconds - LONG_SECONDS
        overdue = until_quiet(fleet, sent, due, longest_seconds + 1)
        known = _overview(fleet, server) if overdue else []
        until_quiet(fleet, sent, due + LATE_SECONDS, longest_seconds + 1, progress_seconds=LATE_SECONDS)
        events = parse(fleet.done_file.read_text().splitlines())
        done = {event.identity for event in events if event.what == "done"}
        task_ids = {identity: one for identity, one in workload.task_ids.items() if identity in done}
        readings = read_back(results.url, task_ids, due + LATE_SECONDS)
        history = History(
            broker, seed, sent, nemesis.finish(events), due,
            processes=fleet.records(), unavailable=nemesis.unavailable(), readings=readings,
        )  # fmt: skip
        verdict = history.judge(events)
        if verdict.lost:
            lines, orphans = _whereabouts(fleet, server, peer, verdict.lost, sent, events)
            history = dataclasses.replace(history, orphans=sorted(orphans))
            verdict = history.judge(events)
            known += lines
        verdict = dataclasses.replace(verdict, whereabouts=tuple(known) if verdict.lost or verdict.orphaned else ())
    finally:
        with suppress(RuntimeError):  # it has been told above
            workload.stop()
        fleet.stop()
        relay.close()
        server.stop()
        if peer is not None:
            peer.stop()
        gc.collect()  # results that nobody reads leave their backend while it is there
        results.stop()
        if disk:
            subprocess.run(["umount", str(directory / "broker")], check=False)
    (directory / "verdict.json").write_text(json.dumps(as_line(broker, seed, verdict)))
    history.save(directory / "history.json")
    return verdict


def start_broker(broker: str, directory: Path) -> tuple[Redis | Sentinel | RabbitMQ, RabbitMQ | None]:
    """The one that the workers use, and another node of its cluster."""
    if broker == "redis":
        return Redis(directory), None
    if broker == "sentinel":
        return Sentinel(directory), None
    if broker != "cluster":
        return RabbitMQ(directory), None
    for name in ("first", "second", "third"):
        (directory / name).mkdir()
    first = RabbitMQ(directory / "first")
    second, _ = (RabbitMQ(directory / name, beside=first) for name in ("second", "third"))
    return second, first


def mount_disk(directory: Path) -> bool:
    """A small disk of its own, which can be filled; False where this user may not mount one."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(directory)]
    return (
        shutil.which("mount") is not None and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


def _overview(fleet: Fleet, server: Redis | Sentinel | RabbitMQ) -> list[str]:
    """What queues have, and what the workers do."""
    return [*(f"{name}: {ready} ready, {held} held" for name, (ready, held) in depths(server).items()), *state(fleet)]


def _whereabouts(  # noqa: PLR0917 - all that can tell
    fleet: Fleet,
    server: Redis | Sentinel | RabbitMQ,
    peer: RabbitMQ | None,
    overdue: Sequence[str],
    sent: list[Sent],
    events: list[Event],
) -> tuple[list[str], set[str]]:
    """What is known about the *overdue* tasks, one line each; and, of a cluster with a *peer*, those that the broker
    has ready only after it was started again: a single node has no such defect. Ends the fleet.
    """
    alive = messages(server)
    fleet.stop()
    await_stable(lambda: depths(server), NOTICED_SECONDS)  # the broker takes back what the workers held
    after = messages(server)
    lines = tell(overdue, sent, events, alive, after)
    nowhere = [each for each in overdue if each not in alive and each not in after]
    held = sum(held for _, held in depths(server).values())
    if not nowhere or not held or not isinstance(server, RabbitMQ):
        return lines, set()
    lines.append(f"{held} messages are held although no worker is there: the broker is started again")
    restart([server] if peer is None else [peer, *peer.members])
    found = messages(server)
    until = monotonic() + READY_AGAIN_SECONDS
    while sum(map(len, found.values())) < held and monotonic() < until:
        sleep(2.0)
        found |= messages(server)
    lines.append(f"ready now: {', '.join(sorted(found)) or 'none'}")
    lines += [f"{each} is ready in {', '.join(found[each])} now" for each in nowhere if each in found]
    return lines, {each for each in nowhere if each in found and peer is not None}


def await_stable(look: Callable[[], object], seconds: float) -> None:
    """Until two looks, two seconds apart, see the same, or for so long."""
    until, seen = monotonic() + seconds, object()
    while monotonic() < until:
        sleep(2.0)
        before, seen = seen, look()
        if before == seen:
            return


def restart(nodes: Sequence[RabbitMQ]) -> None:
    """All of them at once: none starts without the others."""
    for node in nodes:
        node.kill()
    with ThreadPoolExecutor(len(nodes)) as threads:
        list(threads.map(RabbitMQ.start, nodes))


def until_quiet(
    fleet: Workers, sent: list[Sent], deadline: float, quiet_seconds: float = LONG_SECONDS + 1,
    progress_seconds: float = 0.0,
) -> set[str]:  # fmt: skip
    """Until all that is owed is done and nothing more ends for *quiet_seconds*, or the time (monotonic) is over and
    nothing that is owed was done for *progress_seconds*, `LATEST_SECONDS` later at the latest; what is owed then.
    """
    owed = {one.identity for one in sent if one.confirmed_at is not None and one.kind != "early"}
    quiet_since, size = monotonic(), -1
    until, owing = deadline, len(owed)
    while True:
        text = fleet.done_file.read_text()
        if len(text) != size:
            size, quiet_since = len(text), monotonic()
        left = owed - {event.identity for event in parse(text.splitlines()) if event.what == "done"}
        if len(left) < owing:
            owing = len(left)
            until = max(until, min(monotonic() + progress_seconds, deadline + LATEST_SECONDS))
        if monotonic() >= until or (not left and monotonic() - quiet_since > quiet_seconds):
            return left
        sleep(0.5)


def main() -> int:
    """0 if the promise held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--broker", choices=BROKERS, default="redis")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--per-second", type=float, default=15.0)
    parser.add_argument("--own-clocks", action="store_true", help="step a worker's clock, where there is a C compiler")
    parser.add_argument("--longest-seconds", type=float, default=LONG_SECONDS, help="of some of the long tasks")
    parser.add_argument("--delayed", action="store_true", help="RabbitMQ delays what has a countdown")
    parser.add_argument("--unreachable-seconds", type=float, default=UNREACHABLE_SECONDS, help="of the broker")
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="greenfleet-faults-"))
    verdict = run(
        chosen.broker, directory / "run", seed=chosen.seed, rounds=chosen.rounds, seconds=chosen.seconds,
        per_second=chosen.per_second, own_clocks=chosen.own_clocks, longest_seconds=chosen.longest_seconds,
        unreachable_seconds=chosen.unreachable_seconds, delayed=chosen.delayed,
    )  # fmt: skip
    return conclude(as_line(chosen.broker, chosen.seed, verdict), directory, kept=verdict.kept)


def about(started: datetime, start: float, rounds: int, per_second: float) -> dict[str, Any]:
    """What a line of a run begins with, for the tables. *start*: `monotonic` at that time; *per_second*: tasks."""
    return {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(monotonic() - start),
        "rounds": rounds,
        "per_second": per_second,
    }


def conclude(line: Mapping[str, Any], directory: Path, *, kept: bool) -> int:
    """Prints a run's *line*. Unless its promise was *kept*, its directory stays. The status of its program."""
    print(json.dumps(line), flush=True)
    if kept:
        shutil.rmtree(directory)
        return 0
    print(f"the history is in {directory}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
