"""What was sent, delivered, begun and done, what was done to the system meanwhile, and the verdict.

Pure: text and intervals in, a `Verdict` out. All times are seconds of one machine's monotonic clock.

A task is *lost* if the broker had confirmed its message and it was never done. It may be done *twice* where the
guarantee table (docs/guarantees.md) says so. Each repetition needs a cause of its own: a fault that touched a worker,
or the connection or the broker of a worker, while that worker had a message of this task in its hands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

IN_FLIGHT_SECONDS = 1.0
"""A delivery or a settlement is on its way for so long at most: a fault that soon before the worker has seen the
message, or after it has settled it, may still repeat it.
"""

RECONNECT_SECONDS = 5.0
"""So soon after a broker is back a worker has sent the settlements that waited for it."""

UNSETTLED_SECONDS = 2.0
"""A worker that lives settles a message so soon after its task has ended. A fault after that explains nothing, whatever
the worker did.
"""

PUBLISHES_LAST = ("chain", "chord", "reader", "retry")
"""Kinds of tasks that publish something after their author's last line: the next task of the chain, the body of the
chord, the retry.
"""

CANVASES = ("chain", "group", "chord", "reader")
"""Kinds of tasks that the producer publishes with Celery's own retries."""

PUBLISHING_SECONDS = 90.0
"""In place of `UNSETTLED_SECONDS` for these kinds: so long their worker may try to publish before it settles the
message. The runs take the broker away for 60 s, and a silent connection is given up after 15 s; the workers would try
for longer (`task_publish_retry_policy`).
"""

CONSUMES_SECONDS = 60.0
"""So soon after the last fault that touched it a worker that lives begins a task again, if there are messages for it
(docs/reliability.md).
"""

ENOUGH_MESSAGES = 60
"""A worker that took part in the consumption got one of so many: among four who take turns at random it goes without
with a probability of 0.75 ** 60, which is less than one in ten million.
"""

KILLS = ("sigkill", "companion_killed", "probe_failed", "out_of_memory")
"""Kinds of disruptions that end a worker process with SIGKILL."""

SUSPECT_DELIVERIES = 2
"""A message that was delivered so often before may be a suspect: its worker lets what runs end, and begins nothing else
meanwhile (docs/guarantees.md, dead letters).
"""

SIGKILLED = -9
"""The status of a process that SIGKILL has ended."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One task that the producer published. *after*: the task whose end publishes this one, or "" for the producer
    itself.
    """

    identity: str
    kind: str
    at: float
    confirmed_at: float | None
    """None: publishing failed, and the message may or may not exist."""
    after: tuple[str, ...] = ()
    tried_until: float = 0.0
    """When the producer had its confirmation, or gave up. Before that it may have published more than once, if its kind
    retries.
    """
    result: str | None = None
    """What its result has to say. None: nobody reads it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the result backend has of a task, when everything has come to rest."""

    identity: str
    state: str
    """Celery's: SUCCESS, FAILURE, ..."""
    value: str


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the tasks' own log: "got" a message, "again" (the same message had been delivered before, says the
    broker), "begun", "done", "gone" (the message is settled).
    """

    what: str
    identity: str
    worker: str
    at: float


@dataclass(frozen=True, slots=True)
class Hold:
    """A worker has a message of a task in its hands."""

    worker: str
    start: float
    end: float
    copied: bool = False
    """It was settled and not run: a copy of it was published."""
    again: bool = False
    """The task had been delivered before, so that a copy with its record may have been published before it ran."""
    begun: float = float("inf")
    """When the task began; until then the confirmation of that copy was awaited."""
    got: float = float("inf")
    """When the worker wrote down that it has the message. It may have been on its way since *start*."""
    gone: float | None = None
    """When the worker settled it. Its broker knows by *end*."""


@dataclass(frozen=True, slots=True)
class Disruption:
    """What the nemesis did. *target* is a worker, or "" for the broker and for everybody."""

    kind: str
    target: str
    start: float
    end: float
    may_repeat: bool
    """Whether the guarantee table allows that what was held there then runs twice."""
    loses_confirmations: bool = False
    """Whether who publishes meanwhile may not know that the broker has the message, and so publishes it again."""
    stalls: bool = False
    """Whether the worker stands still: what it gets at the end may have been on its way since the beginning."""
    forgets_until: float | None = None
    """From *start* until then the broker may forget what it is told: a master dies then, and its replica is behind. It
    repeats what a worker got or settled then, and nothing that a worker only had.
    """
    counted: bool = True
    """Whether it is a fault of its own, and not the second part of one."""
    delays_confirmations: bool = False
    """Whether the broker confirms so late that a worker publishes a copy again: RabbitMQ's alarms."""
    counts_anew: bool = False
    """Whether the Redis of the results may count a part of a chord and not say so: its body may be sent again."""
    delays_results: bool = False
    """Whether a task that has ended waits with its result, and its message is not settled before that is stored."""
    unfinished: bool = False
    """Whether it is the end of a drain, when what is not settled is given back. A task has ended for its author a
    little before that, and longer before if it publishes something then.
    """

    def touches(self, hold: Hold) -> bool:
        """Whether it was where the message was, while it was there."""
        at_worker = self.target in ("", hold.worker)
        if self.unfinished:
            return at_worker and self.start <= hold.end - IN_FLIGHT_SECONDS <= self.end
        if self.forgets_until is not None:
            got = hold.start - IN_FLIGHT_SECONDS <= self.forgets_until and hold.got >= self.start
            settled = hold.gone is not None and hold.gone <= self.forgets_until and hold.end >= self.start
            return at_worker and (got or settled)
        return at_worker and self.start <= hold.end and self.end >= hold.start - IN_FLIGHT_SECONDS


@dataclass(frozen=True, slots=True)
class Process:
    """A worker process, from its start until it ended, was told to end, or the run was over."""

    worker: str
    start: float
    end: float
    told: bool = False
    """Whether it was told to drain: at *end*."""
    status: int | None = None
    """As `subprocess` has it; None if it lived until the run was over."""
    left: float | None = None
    """When it was seen to be gone."""
    overran: bool = False
    """Whether it was killed because its drain took longer than its grace period."""
    companion: bool = False
    log: str = ""
    """The last lines of it, if it ended by itself."""


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
    begun_again: int = 0
    """Begun more than once, retries left out: faults that hit a running task."""
    twice: Mapping[str, str] = field(default_factory=dict)
    """Identity → the disruptions that explain it."""
    unexplained: tuple[str, ...] = ()
    """Done more often than anything explains: the identity and its history."""
    orphaned: tuple[str, ...] = ()
    """The broker has them, and gives them to nobody until it is started again: a defect of quorum queues
    (rabbitmq-server#15473).
    """
    forgotten: int = 0
    """Lost with a master that died before its replica had them: outside of the promise."""
    early_lost: int = 0
    """Acknowledged early: outside of the promise."""
    miscounted_chords: int = 0
    """Bodies of chords of which a part ran twice: outside of the promise."""
    read: int = 0
    """Results that were read back, and were right."""
    unread: tuple[str, ...] = ()
    """Tasks that are done and whose result is not there: a line for each."""
    wrong: tuple[str, ...] = ()
    """Tasks that are done and whose result says something else: a line for each."""
    hung: tuple[str, ...] = ()
    """Workers that lived and took no part in the consumption, and drains that did not end: a line for each."""
    crashed: tuple[str, ...] = ()
    """Worker processes that ended by themselves: a line for each, with the tail of its log."""
    disruptions: Mapping[str, int] = field(default_factory=dict)
    unavailable: tuple[str, ...] = ()
    """Kinds of disruptions that were asked for, and that this machine does not have."""

    @property
    def kept(self) -> bool:
        """Whether the promise held."""
        return not (self.lost or self.unexplained or self.unread or self.wrong or self.hung or self.crashed)


def parse(lines: Iterable[str]) -> list[Event]:
    """Lines of `fault_app.note`. One that a kill cut short is skipped."""
    events = []
    for line in lines:
        words = line.split()
        if len(words) == 4 and words[0] in ("got", "again", "begun", "done", "gone"):
            events.append(Event(words[0], words[1], words[2], float(words[3])))
    return events


def judge(
    sent: Sequence[Sent],
    events: Sequence[Event],
    disruptions: Sequence[Disruption],
    due: float = float("inf"),
    *,
    orphans: Collection[str] = (),
    processes: Sequence[Process] = (),
    readings: Sequence[Reading] = (),
) -> Verdict:
    """The verdict over a whole run, after everything has come to rest. What is first done after *due* (monotonic) is
    late. *orphans*: what the broker had ready only after it was started again without a consumer. *processes*: all
    workers that there were. *readings*: all results that there are.
    """
    history: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda each: each.at):
        history[event.identity].append(event)
    done = {identity: [event for event in of_it if event.what == "done"] for identity, of_it in history.items()}
    by_identity = {one.identity: one for one in sent}
    lost = [one for one in sent if one.confirmed_at is not None and not done.get(one.identity)]
    # Celery counts the parts of a chord: one that ran twice is counted twice, and the body may never be sent.
    # A body that a worker got was sent, and is owed.
    miscounted = [
        one
        for one in lost
        if one.kind == "chord"
        and one.identity not in history
        and any(len(done.get(part, ())) > 1 for part in one.after)
    ]
    early = [one for one in lost if one.kind == "early"]
    forgotten = [one for one in lost if _forgotten(one, by_identity, history, disruptions)]
    orphaned = [one for one in lost if one.identity in orphans and one.kind != "early"]
    apart = [*miscounted, *early, *forgotten, *orphaned]
    owed = [one for one in lost if one not in apart]
    twice: dict[str, str] = {}
    unexplained = []
    for identity, ends in done.items():
        if len(ends) < 2:
            continue
        causes = _causes(by_identity.get(identity), history, _last_delivery(history[identity]), disruptions)
        repeated = len(ends) - 1
        if len(causes) >= repeated:
            twice[identity] = ", ".join(causes[:repeated])
        else:
            unexplained.append(_told(by_identity.get(identity), history[identity]))
    counts: dict[str, int] = defaultdict(int)
    for disruption in disruptions:
        counts[disruption.kind] += disruption.counted and not disruption.unfinished  # that one is part of a drain
    read, unread, wrong = _results([one for one in sent if done.get(one.identity)], readings)
    return Verdict(
        sent=len(sent),
        confirmed=sum(one.confirmed_at is not None for one in sent),
        done=sum(bool(done.get(one.identity)) for one in sent),
        lost=tuple(one.identity for one in owed),
        late=sum(bool(ends) and ends[0].at > due for ends in done.values()),
        begun_again=sum(
            one.kind != "retry" and sum(event.what == "begun" for event in history.get(one.identity, ())) > 1
            for one in sent
        ),
        twice=twice,
        unexplained=tuple(unexplained),
        orphaned=tuple(one.identity for one in orphaned),
        forgotten=len(forgotten),
        early_lost=len(early),
        miscounted_chords=len(miscounted),
        read=read,
        unread=tuple(unread),
        wrong=tuple(wrong),
        hung=tuple(hung(processes, sent, history, disruptions)),
        crashed=tuple(crashed(processes, disruptions)),
        disruptions={kind: count for kind, count in counts.items() if count},
    )


def _results(done: Iterable[Sent], readings: Sequence[Reading]) -> tuple[int, list[str], list[str]]:
    """How many of the tasks that are *done* have the right result; a line for each that has none, and for each that has
    another one.
    """
    by_identity = {one.identity: one for one in readings}
    right, unread, wrong = 0, [], []
    for one in done:
        if one.result is None:
            continue
        found = by_identity.get(one.identity)
        if found is None:
            unread.append(f"{one.identity} {one.kind}, sent at {one.at:.2f}, is done and has no result")
        elif (found.state, found.value) != ("SUCCESS", one.result):
            told = f"{found.state} {found.value!r}"
            wrong.append(f"{one.identity} {one.kind}, sent at {one.at:.2f}: {told} in place of {one.result!r}")
        else:
            right += 1
    return right, unread, wrong


def cut_off(drain: Disruption, left: float, known: Iterable[Disruption]) -> Disruption:
    """*drain*, whose worker was gone at *left* (monotonic seconds). If the broker was away while it drained, it ended
    like a kill for what it held since then (docs/guarantees.md).
    """
    away = [
        one.start
        for one in known
        if one.loses_confirmations
        and one.target in ("", drain.target)
        and one.start <= left
        and one.end + RECONNECT_SECONDS >= drain.start
    ]
    return replace(drain, start=max(drain.start, min(away)), end=left, may_repeat=True) if away else drain


def killed_by_probe(worker: str, at: float, events: Iterable[Event]) -> Disruption:
    """A worker that was killed at *at* because it stood still: since the last line that it wrote, so that what it
    settled just before that may not have left it.
    """
    still = max((event.at for event in events if event.worker == worker and event.at < at), default=at)
    return Disruption("probe_failed", worker, still, at, may_repeat=True)


def crashed(processes: Sequence[Process], disruptions: Sequence[Disruption]) -> list[str]:
    """A line for each process that ended with a status that no disruption explains."""
    found = []
    for one in processes:
        if one.status is None or one.overran or (one.told and one.status == 0):
            continue
        killed = any(each.kind in KILLS and each.target == one.worker for each in disruptions)
        if one.status != SIGKILLED or not killed:
            how = "while it drained" if one.told else "by itself"
            found.append(f"{one.worker} ended {how} with status {one.status}: {one.log}".strip())
    return found


def hung(
    processes: Sequence[Process],
    sent: Sequence[Sent],
    history: Mapping[str, Sequence[Event]],
    disruptions: Sequence[Disruption],
) -> list[str]:
    """A line for each process that lived, undisturbed, for `CONSUMES_SECONDS` and began nothing, although there were
    messages for it; and for each drain that did not end. *history*: the events of each task, in their order.
    """
    found = [f"{one.worker} was told to drain at {one.end:.2f} and did not end" for one in processes if one.overran]
    companions = {one.worker for one in processes if one.companion}
    for one in processes:
        begun = sorted(
            event.at
            for events in history.values()
            for event in events
            if event.worker == one.worker and event.what == "begun"
        )
        for start, end in _undisturbed(one, disruptions):
            marks = [start, *(at for at in begun if start < at < end), end]
            for since, until in pairwise(marks):
                if until - since < CONSUMES_SECONDS:
                    continue
                if until - _runs_apart(one.worker, history, (since, until)) < CONSUMES_SECONDS:
                    continue
                passed, waited = _messages_for(one, companions, sent, history, (since, until))
                if passed >= ENOUGH_MESSAGES or waited:
                    found.append(
                        f"{one.worker} began nothing from {since:.2f} to {until:.2f}: {passed} messages went to others"
                        + (f", {waited} waited" if waited else "")
                    )
    return found


def _runs_apart(worker: str, history: Mapping[str, Sequence[Event]], gap: tuple[float, float]) -> float:
    """Until when a worker that began nothing in *gap* had to wait for what ran, since it held or ran a message that may
    be a suspect; the beginning of the *gap* if there was none.
    """
    since, until = gap
    suspect, end = False, since
    for events in history.values():
        mine = [event for event in events if event.worker == worker]
        for position, event in enumerate(mine):
            if event.what != "got" or event.at >= until:
                continue
            later = mine[position + 1 :]
            settled = next((each.at for each in later if each.what == "gone"), float("inf"))
            begun = next((each.at for each in later if each.what == "begun"), float("inf"))
            done = next((each.at for each in later if each.what == "done"), since)
            runs = begun <= since < done
            if runs:
                end = max(end, done)
            before = sum(each.what == "got" and each.at < event.at for each in events)
            suspect = suspect or (before >= SUSPECT_DELIVERIES and (runs or until <= min(begun, settled)))
    return min(end, until) if suspect else since


def _undisturbed(process: Process, disruptions: Sequence[Disruption]) -> list[tuple[float, float]]:
    """When it lived and nothing was done to it or to its broker."""
    found, start = [], process.start
    mine = (one for one in disruptions if one.target in ("", process.worker) and not one.unfinished)
    for one in sorted(mine, key=lambda each: each.start):
        # Who never gave a silent connection up has had as long for it as for the rest.
        end = one.end if one.end < float("inf") else one.start + CONSUMES_SECONDS
        if one.start > start:
            found.append((start, min(one.start, process.end)))
        start = max(start, end)
    return [*found, (start, process.end)]


def _messages_for(
    process: Process,
    companions: Collection[str],
    sent: Sequence[Sent],
    history: Mapping[str, Sequence[Event]],
    gap: tuple[float, float],
) -> tuple[int, str]:
    """How many messages others like it got meanwhile; and one that nobody got for `CONSUMES_SECONDS`, or ""."""
    passed, waited = 0, ""
    since, until = gap
    for one in sent:
        events = history.get(one.identity, ())
        got = [
            event.at for event in events if event.what == "got" and (event.worker in companions) == process.companion
        ]
        passed += any(since <= at <= until for at in got)
        if process.companion:
            # The copy for it is published before the original is settled.
            ready = next((each.at for each in events if each.what == "gone" and each.worker not in companions), None)
            came = (ready or 0.0) - IN_FLIGHT_SECONDS
        else:
            ready = one.confirmed_at if not one.after and one.kind != "eta" else None
            came = one.at  # a chord is confirmed when its parts are written down, too
        if ready is None or (process.companion and one.kind != "forwarded"):
            continue
        taken = min([at for at in got if at >= came], default=float("inf"))
        if min(taken, until) - max(ready, since) >= CONSUMES_SECONDS:
            waited = waited or one.identity
    return passed, waited


def holds(
    events: Sequence[Event],
    unsettled_seconds: float = UNSETTLED_SECONDS,
    *,
    forwarded: bool = False,
    outages: Sequence[Disruption] = (),
) -> list[Hold]:
    """Who had a message of one task in its hands, and when. *events*: of that task, in their order. *forwarded*:
    whoever runs it is a companion and has a copy. *outages*: of where its result is stored.
    """
    found = []
    companions = {event.worker for event in events if event.what == "begun"} if forwarded else set()
    for position, event in enumerate(events):
        if event.what != "got":
            continue
        earlier, later = events[:position], events[position + 1 :]
        mine = [each for each in later if each.worker == event.worker]
        # The same worker may get a second message of the task, or the same one again: what follows belongs to that.
        again = next((index for index, each in enumerate(mine) if each.what == "got"), len(mine))
        gone = next((each.at for each in mine[:again] if each.what == "gone"), None)
        # Runs of earlier messages, which their connection may have taken along, end first.
        runs = _count(earlier, event.worker, "begun") - _count(earlier, event.worker, "done")
        ends = [each.at for each in mine if each.what == "done"][max(0, runs) :]
        begun = next((each.at for each in mine[:again] if each.what == "begun"), None)
        done = ends[0] if ends and begun is not None else None
        takers = [each for each in later if each.what == "got"]
        # The companion gets the copy, and the original is still with who forwarded it.
        originals = [each for each in takers if each.worker not in companions] if event.worker not in companions else []
        taken = next((each.at for each in originals or takers), float("inf"))
        if gone is not None:
            end = gone + IN_FLIGHT_SECONDS
        elif done is not None:
            stored = _until_back(done + UNSETTLED_SECONDS, event.worker, outages)
            end = min(max(done + unsettled_seconds, stored), max(taken, done + UNSETTLED_SECONDS))
        else:
            end = taken
        found.append(
            Hold(
                event.worker,
                event.at,
                end,
                copied=gone is not None and begun is None,
                again=any(each.what == "got" for each in earlier) or any(each.what == "again" for each in mine[:again]),
                begun=float("inf") if begun is None else begun,
                got=event.at,
                gone=gone,
            )
        )
    return found


def _until_back(at: float, worker: str, away: Sequence[Disruption]) -> float:
    """When a worker that is done at *at* has told it to the broker, or to the Redis of its result: what it has to say
    is kept while that is away.
    """
    waits = [
        one.end + RECONNECT_SECONDS
        for one in away
        if one.target in ("", worker) and one.start <= at <= one.end + RECONNECT_SECONDS
    ]
    return max([at, *waits])


def _count(events: Sequence[Event], worker: str, what: str) -> int:
    return sum(event.worker == worker and event.what == what for event in events)


def _forgotten(
    sent: Sent, known: Mapping[str, Sent], history: Mapping[str, Sequence[Event]], disruptions: Sequence[Disruption]
) -> bool:
    """Whether what the broker was told last about its message, or about that of a task before it that was never done,
    was told so shortly before a master died that the replica may lack it.
    """
    undone = [each for each in sent.after if not any(event.what == "done" for event in history.get(each, ()))]
    if undone:
        return any(_forgotten(known[each], known, history, disruptions) for each in undone if each in known)
    told = _last_told(sent, history)
    return told is not None and any(
        one.forgets_until is not None and one.start <= told[1] and one.forgets_until >= told[0] for one in disruptions
    )


def _last_told(sent: Sent, history: Mapping[str, Sequence[Event]]) -> tuple[float, float] | None:
    """From when until when the broker was told last about the message of a task that was never done: that it is there,
    or that a worker has it. None if it was told that the message is settled.
    """
    events = history.get(sent.identity, ())
    last = next((event for event in reversed(events) if event.what in ("got", "gone")), None)
    if last is not None and last.what == "got":
        return last.at - IN_FLIGHT_SECONDS, last.at
    if last is not None:
        # A worker publishes a retry, and the copy for the companion, before it settles the message.
        steps = [event.at for event in events if event.what in ("got", "begun") and event.worker == last.worker]
        return (max(steps, default=last.at), last.at) if sent.kind in ("retry", "forwarded") else None
    if not sent.after:
        return sent.at, sent.tried_until
    parents = [event for each in sent.after for event in history.get(each, ())]
    done = max((event for event in parents if event.what == "done"), key=lambda each: each.at)
    settled = (event.at for event in parents if event.what == "gone" and event.identity == done.identity)
    return done.at, min((at for at in settled if at >= done.at), default=done.at + UNSETTLED_SECONDS)


def _causes(
    sent: Sent | None, history: Mapping[str, Sequence[Event]], last: float, disruptions: Sequence[Disruption]
) -> list[str]:
    """One for each message of a task, or of its parents, that may have been repeated before the delivery at *last*."""
    if sent is None:
        return []
    found = []
    for parent in sent.after:
        of_it = history.get(parent, ())
        repeated = sum(event.what == "done" for event in of_it) - 1
        found += [f"sent twice by {parent}"] * repeated
        unsure_of_it = [
            one for one in disruptions if one.loses_confirmations or (one.counts_anew and sent.kind == "chord")
        ]
        found += _touched(of_it, unsure_of_it, last, f"published by {parent}")
    # A worker publishes a retry, and the copy for the companion, while it holds the message.
    publishes = sent.kind in ("retry", "forwarded")
    last_words = sent.kind in PUBLISHES_LAST
    harmful = [
        one
        for one in disruptions
        if one.may_repeat or one.unfinished or one.forgets_until is not None or (publishes and one.loses_confirmations)
    ]
    seconds = PUBLISHING_SECONDS if last_words else UNSETTLED_SECONDS
    # On Redis: what is settled while the broker is away is sent when it is back.
    away = [one for one in disruptions if one.loses_confirmations and not one.may_repeat]
    mine, forwarded = history[sent.identity], sent.kind == "forwarded"
    outages = [one for one in disruptions if one.delays_results and sent.result is not None]
    found += _touched(mine, harmful, last, unsettled_seconds=seconds, away=away, forwarded=forwarded, outages=outages)
    # A lost connection may take both along: the message, and the confirmation of what was published for it.
    if publishes:
        both = [one for one in disruptions if one.may_repeat and one.loses_confirmations]
        found += _touched(mine, both, last, "confirmation", seconds, forwarded=forwarded)
    else:
        unsure = [
            one for one in disruptions if one.delays_confirmations or (one.may_repeat and one.loses_confirmations)
        ]
        found += _touched(mine, unsure, last, "confirmation", seconds, only_copied=True)
        found += _copied_and_run(mine, unsure, last)
    if sent.kind in CANVASES and not sent.after:
        for one in disruptions:
            if one.loses_confirmations and not one.target and one.start <= sent.tried_until and one.end >= sent.at:
                found.append(f"published while {one.kind}")
    return found


def _copied_and_run(events: Sequence[Event], unsure: Sequence[Disruption], last: float) -> list[str]:
    """For each message that came again: which disruption kept the confirmation of its copy, so that the original ran
    and the copy may have run too.
    """
    found = []
    for hold in holds(events):
        if not hold.again or hold.copied or hold.start >= last:
            continue
        awaited = (one for one in unsure if one.start <= hold.begun and one.end >= hold.start)
        one = next((one for one in awaited if one.target in ("", hold.worker)), None)
        if one is not None:
            found.append(f"copied while {one.kind} {one.target}".strip())
    return found


def _touched(
    events: Sequence[Event],
    disruptions: Sequence[Disruption],
    last: float,
    prefix: str = "",
    unsettled_seconds: float = UNSETTLED_SECONDS,
    *,
    only_copied: bool = False,
    away: Sequence[Disruption] = (),
    forwarded: bool = False,
    outages: Sequence[Disruption] = (),
) -> list[str]:
    """For each hold from before *last* that a disruption touched before *last*: which one."""
    found = []
    stalls = [one for one in disruptions if one.stalls]
    for got in holds(events, unsettled_seconds, forwarded=forwarded, outages=outages):
        if only_copied and not got.copied:
            continue
        since = [one.start for one in stalls if one.target == got.worker and one.start <= got.start <= one.end]
        hold = replace(got, start=min(since, default=got.start))
        kept = replace(hold, end=_until_back(hold.end, hold.worker, away))
        one = next(
            (
                one
                for one in disruptions
                if max(hold.start, one.start) < last and one.touches(hold if one.unfinished else kept)
            ),
            None,
        )
        if one is not None:
            found.append(f"{prefix} while {one.kind} {one.target}".removeprefix(" while ").strip())
    return found


def _last_delivery(events: Sequence[Event]) -> float:
    """The last delivery that ended in a done task: what happened after it has repeated nothing."""
    deliveries = []
    for done in (event for event in events if event.what == "done"):
        got = [each.at for each in events if each.what == "got" and each.worker == done.worker and each.at <= done.at]
        deliveries.append(max(got, default=done.at))
    return max(deliveries)


def _told(sent: Sent | None, events: Sequence[Event]) -> str:
    """The history of one task, in a line."""
    if sent is None:
        return f"{events[0].identity}: nobody sent it"
    steps = ", ".join(f"{event.what} at {event.at:.2f} by {event.worker}" for event in events)
    return f"{sent.identity} {sent.kind}, sent at {sent.at:.2f}: {steps}"
