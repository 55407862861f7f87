"""What was sent, begun and done, what was done to the system meanwhile, and the verdict.

Pure: text and intervals in, a `Verdict` out. All times are seconds of one machine's monotonic clock.

A task is *lost* if the broker had confirmed its message and it was never done. It was done *twice* with an explanation if
the guarantee table (docs/guarantees.md) allows it: its worker was killed, or was cut off for longer than a heartbeat, or the
broker died while it ran; or its producer, or the task that sent it, published twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MARGIN_SECONDS = 2.0
"""An acknowledgement is on its way for so long at most: a fault that soon after the end of a task may still repeat it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One task that the producer published. *after*: the task whose end publishes this one, or "" for the producer itself."""

    identity: str
    kind: str
    at: float
    confirmed_at: float | None
    """None: publishing failed, and the message may or may not exist."""
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the tasks' own log."""

    what: str
    identity: str
    worker: str
    at: float


@dataclass(frozen=True, slots=True)
class Disruption:
    """What the nemesis did. *target* is a worker, or "" for the broker and for everybody."""

    kind: str
    target: str
    start: float
    end: float
    may_repeat: bool
    """Whether the guarantee table allows that what ran there then runs twice."""


@dataclass(frozen=True)
class Verdict:
    """One run, counted."""

    sent: int = 0
    confirmed: int = 0
    done: int = 0
    lost: tuple[str, ...] = ()
    whereabouts: tuple[str, ...] = ()
    """What the broker and the workers said when some were overdue, and a line for each of those."""
    late: int = 0
    """Done, but later than they should."""
    twice: Mapping[str, str] = field(default_factory=dict)
    """Identity → the disruption that explains it."""
    unexplained: tuple[str, ...] = ()
    """Done twice, and nothing explains it."""
    early_lost: int = 0
    """Acknowledged early: outside of the promise."""
    miscounted_chords: int = 0
    """Bodies of chords of which a part ran twice: outside of the promise."""
    disruptions: Mapping[str, int] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Whether the promise held."""
        return not self.lost and not self.unexplained


def parse(lines: Iterable[str]) -> list[Event]:
    """Lines of `fault_app.note`. One that a kill cut short is skipped."""
    events = []
    for line in lines:
        words = line.split()
        if len(words) == 4 and words[0] in ("begun", "done"):
            events.append(Event(words[0], words[1], words[2], float(words[3])))
    return events


def judge(
    sent: Sequence[Sent], events: Sequence[Event], disruptions: Sequence[Disruption], due: float = float("inf")
) -> Verdict:
    """The verdict over a whole run, after everything has come to rest. What is first done after *due* (monotonic) is late."""
    begun: dict[str, list[Event]] = defaultdict(list)
    done: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        (begun if event.what == "begun" else done)[event.identity].append(event)
    by_identity = {one.identity: one for one in sent}
    lost = [one for one in sent if one.confirmed_at is not None and not done.get(one.identity)]
    # Celery counts the parts of a chord: one that ran twice is counted twice, and the body may never be sent.
    miscounted = [one for one in lost if one.kind == "chord" and any(len(done[part]) > 1 for part in one.after)]
    early = [one for one in lost if one.kind == "early"]
    owed = [one for one in lost if one not in miscounted and one not in early]
    twice: dict[str, str] = {}
    unexplained = []
    for identity, ends in done.items():
        if len(ends) < 2:
            continue
        why = _explanation(by_identity.get(identity), begun[identity], ends, done, disruptions)
        if why:
            twice[identity] = why
        else:
            unexplained.append(identity)
    counts: dict[str, int] = defaultdict(int)
    for disruption in disruptions:
        counts[disruption.kind] += 1
    return Verdict(
        sent=len(sent),
        confirmed=sum(one.confirmed_at is not None for one in sent),
        done=sum(bool(done.get(one.identity)) for one in sent),
        lost=tuple(one.identity for one in owed),
        late=sum(bool(ends) and min(event.at for event in ends) > due for ends in done.values()),
        twice=twice,
        unexplained=tuple(unexplained),
        early_lost=len(early),
        miscounted_chords=len(miscounted),
        disruptions=dict(counts),
    )


def _explanation(
    sent: Sent | None,
    begun: Sequence[Event],
    done: Sequence[Event],
    all_done: Mapping[str, Sequence[Event]],
    disruptions: Sequence[Disruption],
) -> str:
    """Why a task may have been done twice; "" if nothing explains it."""
    if sent is not None and any(len(all_done.get(parent, ())) > 1 for parent in sent.after):
        return "sent twice by " + ", ".join(sent.after)
    if sent is not None and sent.kind == "forwarded":
        # Until it begins, the worker that forwards it may publish it and fail to settle the message that it came as.
        begun = [*begun, Event("begun", sent.identity, "", sent.at)]
        done = [*done, Event("done", sent.identity, "", min(event.at for event in begun if event.worker))]
    last = max(event.at for event in done)
    for one in disruptions:
        # What is on its way to a companion's process when its connection is lost may run twice, and so may a retry that is published
        # while the broker takes no message (docs/guarantees.md).
        may_repeat = one.may_repeat or (sent is not None and sent.kind in ("forwarded", "retry") and not one.target)
        if may_repeat and one.start <= last and _ran_during(one, begun, done):
            return f"{one.kind} {one.target}".strip()
    if sent is not None:
        # Who gets a message that was delivered before publishes a copy and settles the original: a connection that is lost in between
        # has doubled it, long before it begins.
        first = min((event.at for event in begun if event.worker), default=0.0)
        for one in disruptions:
            if one.may_repeat and not one.target and one.start <= first and one.end >= sent.at:
                return f"delivered again while {one.kind}"
    if sent is not None and sent.confirmed_at is not None:
        for one in disruptions:
            if not one.target and one.start <= sent.confirmed_at and one.end >= sent.at:
                return f"published while {one.kind}"
    return ""


def _ran_during(one: Disruption, begun: Sequence[Event], done: Sequence[Event]) -> bool:
    """Whether some run of the task, or its acknowledgement, overlaps the disruption (at its target)."""
    for start in begun:
        if one.target and start.worker != one.target:
            continue
        ends = [event.at for event in done if event.worker == start.worker and event.at >= start.at]
        end = min(ends) + MARGIN_SECONDS if ends else float("inf")
        if start.at <= one.end and end >= one.start:
            return True
    return False
