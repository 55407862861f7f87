"""Judges a run that was kept once more, when the checker has learned something, and tells the history of one task.

    python -m tests.faults.again DIRECTORY                # the line that the run would print
    python -m tests.faults.again DIRECTORY --task t4711   # what became of this one, and the faults of that time

A task's history is what its workers wrote down, in order: they *got* a message of it, the task *begun* and was *done*,
and the message is *gone* (acknowledged, or given back). Between these lines stand the faults of that time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.faults.history import Disruption, Event, Process, Reading, Sent, Verdict, judge, parse

NEAR_SECONDS = 30.0
"""Faults so long before a task's first line are shown with it."""


@dataclass(frozen=True)
class History:
    """What a verdict is made from, besides the tasks' own log."""

    broker: str
    seed: int
    sent: Sequence[Sent]
    disruptions: Sequence[Disruption]
    due: float
    """Monotonic seconds; what is first done later is late."""
    orphans: Sequence[str] = ()
    processes: Sequence[Process] = ()
    unavailable: Sequence[str] = ()
    readings: Sequence[Reading] = ()

    def judge(self, events: Sequence[Event]) -> Verdict:
        """See `history.judge`."""
        verdict = judge(
            self.sent, events, self.disruptions, self.due,
            orphans=self.orphans, processes=self.processes, readings=self.readings,
        )  # fmt: skip
        return replace(verdict, unavailable=tuple(self.unavailable))

    def save(self, file: Path) -> None:
        """For `load`."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> History:
        """What `save` has written. Raises OSError or ValueError."""
        found: dict[str, Any] = json.loads(file.read_text())
        sent = [Sent(**{**one, "after": tuple(one["after"])}) for one in found.pop("sent")]
        disruptions = [Disruption(**one) for one in found.pop("disruptions")]
        processes = [Process(**one) for one in found.pop("processes", [])]
        readings = [Reading(**one) for one in found.pop("readings", [])]
        names = {name: tuple(found.pop(name, ())) for name in ("orphans", "unavailable")}
        return cls(sent=sent, disruptions=disruptions, processes=processes, readings=readings, **names, **found)

    def tell(self, identity: str, events: Sequence[Event]) -> list[str]:
        """One line for each thing that happened to a task, and for each fault between its first and its last line."""
        mine = [event for event in events if event.identity == identity]
        sent = [one for one in self.sent if one.identity == identity]
        lines = [(event.at, f"{event.what} by {event.worker}") for event in mine]
        last = max((event.at for event in mine), default=self.due)
        lines += [(last, f"read back: {one.state} {one.value!r}") for one in self.readings if one.identity == identity]
        for one in sent:
            after = f" after {', '.join(one.after)}" if one.after else ""
            confirmed = "not confirmed" if one.confirmed_at is None else f"confirmed at {one.confirmed_at:.3f}"
            lines.append((one.at, f"sent, {one.kind}{after}, {confirmed}"))
        first, last = min((at for at, _ in lines), default=0.0), max((at for at, _ in lines), default=0.0)
        for fault in self.disruptions:
            if fault.end >= first - NEAR_SECONDS and fault.start <= last:
                lines.append((fault.start, f"    {fault.kind} {fault.target or 'of all'} until {fault.end:.3f}"))
        return [f"{at:.3f} {text}" for at, text in sorted(lines)]


def as_line(broker: str, seed: int, verdict: Verdict) -> dict[str, object]:
    """What a run prints."""
    return {"broker": broker, "seed": seed, "kept": verdict.kept, **asdict(verdict)}


def main() -> int:
    """0 if the promise held."""
    parser = argparse.ArgumentParser(description="judges a run that was kept once more")
    parser.add_argument("directory", type=Path, help="of the run: it has history.json and done")
    parser.add_argument("--task", help="tell this task's history in place of the verdict, such as t4711")
    chosen = parser.parse_args()
    history = History.load(chosen.directory / "history.json")
    events = parse((chosen.directory / "done").read_text().splitlines())
    if chosen.task:
        print("\n".join(history.tell(chosen.task, events)))
        return 0
    verdict = history.judge(events)
    print(json.dumps(as_line(history.broker, history.seed, verdict)))
    return 0 if verdict.kept else 1


if __name__ == "__main__":
    sys.exit(main())
