"""The checker of the fault runs: what it calls lost, done twice, and explained. Histories are forged."""

from __future__ import annotations

import pytest

from tests.faults.history import (
    Disruption,
    Event,
    Process,
    Reading,
    Sent,
    Verdict,
    cut_off,
    judge,
    killed_by_probe,
    parse,
)

LOST = {"may_repeat": True, "loses_confirmations": True}
"""What a lost connection to RabbitMQ may do."""
KEPT = {"may_repeat": False, "loses_confirmations": True}
"""What a lost connection to Redis may do."""


def sent(
    identity: str, kind: str = "short", confirmed: float | None = 1.1, after: tuple[str, ...] = (), until: float = 1.1
) -> Sent:
    return Sent(identity, kind, 1.0, confirmed, after, until)


def run(identity: str, worker: str, *times: float) -> list[str]:
    """The lines of one delivery: got, begun, done, and gone if there are four *times*."""
    return [
        f"{what} {identity} {worker} {at}" for what, at in zip(("got", "begun", "done", "gone"), times, strict=False)
    ]


def verdict(lines: list[str], *disruptions: Disruption, kind: str = "short") -> Verdict:
    return judge([sent("a", kind)], parse(lines), disruptions)


ONCE = run("a", "w1", 1.9, 2.0, 2.5, 2.6)
TWICE = [*run("a", "w1", 1.9, 2.0, 2.5), *run("a", "w2", 10.0, 10.0, 10.5, 10.6)]


def test_a_confirmed_task_that_was_never_done_is_lost() -> None:
    found = judge([sent("a"), sent("b")], parse(ONCE), [])
    assert found.lost == ("b",)
    assert not found.kept


def test_a_task_that_only_began_is_lost() -> None:
    assert verdict(["begun a w1 2.0"]).lost == ("a",)


def test_what_the_broker_has_and_gives_to_nobody_is_counted_apart() -> None:
    found = judge([sent("a"), sent("b")], parse(["got a w1 2.0"]), [], orphans={"a"})
    assert (found.orphaned, found.lost, found.kept) == (("a",), ("b",), False)
    assert judge([sent("a")], parse(ONCE), [], orphans={"a"}).orphaned == (), "it is done"


def test_what_the_broker_never_confirmed_is_not_owed() -> None:
    assert judge([sent("a", confirmed=None)], [], []).kept


def test_an_early_acknowledged_task_is_counted_and_not_owed() -> None:
    found = judge([sent("a", kind="early")], [], [])
    assert (found.early_lost, found.kept) == (1, True)


def test_done_twice_without_a_fault_is_unexplained_and_its_history_is_told() -> None:
    found = verdict(TWICE)
    assert not found.kept
    assert found.unexplained == (
        "a short, sent at 1.00: got at 1.90 by w1, begun at 2.00 by w1, done at 2.50 by w1, got at 10.00 by w2, "
        "begun at 10.00 by w2, done at 10.50 by w2, gone at 10.60 by w2",
    )


ACCEPTED = {
    "its worker was killed while it ran": (TWICE, Disruption("sigkill", "w1", 2.4, 2.4, may_repeat=True)),
    "its worker was killed before it had settled the message": (
        TWICE, Disruption("sigkill", "w1", 3.0, 3.0, may_repeat=True),
    ),
    "its worker was killed as the settlement was on its way": (
        [*ONCE, *TWICE[3:]], Disruption("sigkill", "w1", 3.4, 3.4, may_repeat=True),
    ),
    "the broker died while it waited for a thread": (
        [*run("a", "w1", 1.9, 8.0, 8.5), *TWICE[3:]], Disruption("broker_killed", "", 5.0, 6.0, **LOST),
    ),
    "its delivery was on its way when the connection was lost": (TWICE, Disruption("cut", "", 1.5, 1.5, **LOST)),
    "its worker stood still, and ended it after the other": (
        ["got a w1 1.9", "begun a w1 2.0", *TWICE[3:], "done a w1 30.0"],
        Disruption("freeze", "w1", 2.1, 29.0, may_repeat=True),
    ),
    "it was on its way to a worker that stood still": (
        [*run("a", "w2", 10.0, 10.0, 10.5, 10.6), *run("a", "w1", 28.5, 28.6, 29.0, 29.1)],
        Disruption("freeze", "w1", 2.1, 29.0, may_repeat=True, stalls=True),
    ),
    "the connection of its worker was silent": (TWICE, Disruption("silent_connection", "w1", 0.5, 9.0, **LOST)),
    "a copy was published and the original not settled by who had it first": (
        ["got a w1 1.9", *run("a", "w2", 20.0, 20.0, 20.5, 20.6), *run("a", "w3", 30.0, 30.0, 30.5, 30.6)],
        Disruption("cut", "", 2.5, 2.5, **LOST),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_fault_at_the_message_while_it_was_there_explains_one_repetition(case: str) -> None:
    lines, disruption = ACCEPTED[case]
    found = verdict(lines, disruption)
    assert found.kept, found
    assert found.twice == {"a": f"{disruption.kind} {disruption.target}".strip()}
    third = verdict([*lines, *run("a", "w4", 40.0, 40.0, 40.5, 40.6)], disruption)
    assert third.unexplained, "a third run needs a cause of its own"


REJECTED = {
    "another worker was killed": (TWICE, Disruption("sigkill", "w3", 2.4, 2.4, may_repeat=True)),
    "the worker that ran it last was killed": (TWICE, Disruption("sigkill", "w2", 10.8, 10.8, may_repeat=True)),
    "the worker that ran it last stood still before": (
        [*run("a", "w2", 10.0, 10.0, 10.5, 10.6), *run("a", "w1", 32.5, 32.6, 33.0, 33.1)],
        Disruption("freeze", "w1", 2.1, 29.0, may_repeat=True, stalls=True),
    ),
    "its worker was killed long before": (TWICE, Disruption("sigkill", "w1", 0.5, 0.5, may_repeat=True)),
    "its worker was killed long after it had settled the message": (
        [*ONCE, *TWICE[3:]], Disruption("sigkill", "w1", 4.0, 4.0, may_repeat=True),
    ),
    "its worker forgot to settle and was killed seconds later": (
        TWICE, Disruption("sigkill", "w1", 8.0, 8.0, may_repeat=True),
    ),
    "the broker died after both": (TWICE, Disruption("broker_killed", "", 20.0, 21.0, **LOST)),
    "the broker died between both": (TWICE, Disruption("broker_killed", "", 6.0, 7.0, **LOST)),
    "the broker died while it waited in the queue": (
        [*run("a", "w1", 30.0, 30.0, 30.5, 30.6), *run("a", "w2", 50.0, 50.0, 50.5, 50.6)],
        Disruption("broker_killed", "", 10.0, 11.0, **LOST),
    ),
    "the connection of another worker was silent": (TWICE, Disruption("silent_connection", "w2", 0.5, 9.0, **LOST)),
    "its worker was drained": (TWICE, Disruption("drain", "w1", 2.2, 3.0, may_repeat=False)),
    "a connection to Redis was lost": (TWICE, Disruption("cut", "", 2.4, 2.4, **KEPT)),
    "the worker lost its connection after a retry had been settled": (
        ["got a w1 1.9", "begun a w1 2.0", "gone a w1 2.2", *run("a", "w1", 6.0, 6.0, 6.1, 6.2), *TWICE[3:]],
        Disruption("cut", "", 4.0, 4.0, **LOST),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REJECTED)
def test_a_fault_elsewhere_or_at_another_time_explains_nothing(case: str) -> None:
    lines, disruption = REJECTED[case]
    found = verdict(lines, disruption)
    assert not found.twice
    assert len(found.unexplained) == 1


@pytest.mark.parametrize("kind", ["chain", "chord"])
def test_a_worker_that_publishes_what_follows_its_task_settles_later(kind: str) -> None:
    killed = Disruption("sigkill", "w1", 8.0, 8.0, may_repeat=True)
    assert verdict(TWICE, killed, kind=kind).twice == {"a": "sigkill w1"}
    assert not verdict(TWICE, Disruption("sigkill", "w1", 12.0, 12.0, may_repeat=True), kind=kind).kept
    assert not verdict([*ONCE, *TWICE[3:]], killed, kind=kind).kept, "it has settled it"


def test_what_is_settled_while_redis_is_away_is_sent_later() -> None:
    away, killed = (
        Disruption("unreachable", "", 1.0, 2.2, **KEPT),
        Disruption("sigkill", "w1", 5.0, 5.0, may_repeat=True),
    )
    assert verdict([*ONCE, *TWICE[3:]], away, killed).twice == {"a": "sigkill w1"}
    assert not verdict([*ONCE, *TWICE[3:]], away).kept, "it was sent"
    assert not verdict([*ONCE, *TWICE[3:]], Disruption("sigkill", "w1", 9.0, 9.0, may_repeat=True), away).kept


def test_a_drain_gives_back_what_is_not_settled() -> None:
    over = Disruption("drain_over", "w1", 6.0, 16.0, may_repeat=False, unfinished=True)
    publishing = [*run("a", "w1", 1.9, 2.0, 2.5, 6.5), *TWICE[3:]]
    assert verdict(publishing, over, kind="chain").twice == {"a": "drain_over w1"}
    assert verdict(publishing, over, kind="short").kept
    assert not verdict([*ONCE, *TWICE[3:]], over, kind="chain").kept, "it was settled before"


@pytest.mark.parametrize("kind", ["retry", "forwarded"])
def test_what_a_worker_publishes_may_be_doubled_only_while_confirmations_are_lost(kind: str) -> None:
    unreachable = Disruption("unreachable", "", 2.0, 7.0, **KEPT)
    published = ["got a w1 2.1", "gone a w1 7.2", *run("a", "w1", 8.0, 8.0, 8.1, 8.2), *TWICE[3:]]
    assert verdict(published, unreachable, kind=kind).kept
    assert not verdict(published, unreachable).kept
    assert not verdict(published, Disruption("unreachable", "", 8.9, 9.4, **KEPT), kind="short").kept
    assert not verdict(published, Disruption("unreachable", "", 20.0, 25.0, **KEPT), kind=kind).kept


def test_a_lost_connection_may_repeat_a_retry_and_its_message() -> None:
    thrice = [*TWICE, *run("a", "w3", 20.0, 20.0, 20.5, 20.6)]
    cut = Disruption("cut", "", 2.4, 2.4, **LOST)
    assert verdict(thrice, cut, kind="retry").twice == {"a": "cut, confirmation while cut"}
    assert not verdict(thrice, cut).kept
    assert not verdict(thrice, Disruption("sigkill", "w1", 2.4, 2.4, may_repeat=True), kind="retry").kept


def test_a_lost_connection_may_repeat_a_message_and_its_copy() -> None:
    """A message that was delivered before is published anew with its record, and acknowledged."""
    copied = ["got a w1 1.9", "gone a w1 2.0"]
    thrice = [*copied, *TWICE[3:], *run("a", "w3", 20.0, 20.0, 20.5, 20.6), *run("a", "w4", 30.0, 30.0, 30.5, 30.6)]
    cut = Disruption("cut", "", 2.1, 2.1, **LOST)
    assert verdict(thrice, cut).kept
    assert not verdict(thrice, Disruption("cut", "", 8.0, 8.0, **LOST)).kept
    alarm = Disruption("disk_full", "", 1.0, 2.1, delays_confirmations=True, **KEPT)
    assert verdict([*copied, *TWICE[3:], *run("a", "w3", 20.0, 20.0, 20.5, 20.6)], alarm).kept, "not confirmed in time"
    assert not verdict(thrice, alarm).kept


def test_a_copy_that_is_not_confirmed_in_time_runs_beside_its_original() -> None:
    """Run 3003: a message came again after a lost connection, its copy waited for the end of an alarm, and the original
    ran meanwhile.
    """
    cut = Disruption("cut", "", 2.6, 2.6, **LOST)
    alarm = Disruption("disk_full", "", 3.5, 9.5, delays_confirmations=True, **KEPT)
    again = run("a", "w1", 4.0, 9.0, 9.1, 9.2)
    thrice = [*run("a", "w1", 1.9, 2.0, 2.5), *again, *run("a", "w1", 9.6, 9.7, 9.8, 9.9)]
    assert verdict(thrice, cut, alarm).twice == {"a": "cut, copied while disk_full"}
    assert verdict(thrice, cut).unexplained, "without an alarm its copy was confirmed, or it had none"
    assert verdict(thrice, alarm).unexplained, "nothing brought it again"
    late = Disruption("disk_full", "", 9.15, 12.0, delays_confirmations=True, **KEPT)
    assert verdict(thrice, cut, late).unexplained, "the original had begun: there was nothing to wait for"
    assert verdict([*again, *run("a", "w1", 9.6, 9.7, 9.8, 9.9)], alarm).unexplained, "the first delivery has no copy"


def test_a_copy_of_what_a_broker_delivers_again_runs_beside_its_original() -> None:
    """Run 5002: nobody had written down its first delivery, which went with the channel that it was on."""
    alarm = Disruption("disk_full", "", 3.5, 9.5, delays_confirmations=True, **KEPT)
    again = ["got a w1 4.0", "again a w1 4.0", *run("a", "w1", 4.0, 9.0, 9.1, 9.2)[1:]]
    copy = run("a", "w2", 9.6, 9.7, 9.8, 9.9)
    assert verdict([*again, *copy], alarm).twice == {"a": "copied while disk_full"}
    assert verdict([*again, *copy]).unexplained, "without an alarm its copy was confirmed"
    assert verdict([again[0], *again[2:], *copy], alarm).unexplained, "a first delivery has no copy"


def test_a_worker_that_is_killed_before_it_has_settled_what_it_forwarded_has_forwarded_it_twice() -> None:
    """Run 4001: the companion had the copy, and had run it, when the kernel killed the worker that had sent it."""
    copies = [*run("a", "p1", 2.2, 2.3, 2.4, 2.5), *run("a", "p1", 6.4, 6.5, 6.6, 6.7)]
    lines = ["got a w1 2.0", *copies, "got a w2 6.0", "gone a w2 6.3"]
    killed = Disruption("out_of_memory", "w1", 4.0, 4.8, may_repeat=True)
    assert verdict(lines, killed, kind="forwarded").twice == {"a": "out_of_memory w1"}
    elsewhere = Disruption("out_of_memory", "w3", 4.0, 4.8, may_repeat=True)
    assert verdict(lines, elsewhere, kind="forwarded").unexplained
    after = Disruption("out_of_memory", "w1", 6.1, 6.2, may_repeat=True)
    assert verdict(lines, after, kind="forwarded").unexplained, "it was another worker's by then"
    settled = ["got a w1 2.0", "gone a w1 2.3", *copies, "got a w2 6.0", "gone a w2 6.3"]
    assert verdict(settled, killed, kind="forwarded").unexplained


def test_a_worker_ends_its_runs_of_a_task_in_their_order() -> None:
    """Its first message went with a connection, and its run went on."""
    lines = [
        "got a w1 1.9", "begun a w1 2.0", "got a w1 5.0", "begun a w1 5.1", "done a w1 11.0", "done a w1 14.1",
        *run("a", "w2", 20.0, 20.0, 20.5, 20.6),
    ]  # fmt: skip
    first, second = (Disruption("cut", "", at, at, **LOST) for at in (3.5, 13.9))
    found = judge([sent("a")], parse(lines), [first, second])
    assert found.twice == {"a": "cut, cut"}
    assert not judge([sent("a")], parse(lines), [first]).kept


def test_what_was_sent_twice_by_its_parent_is_explained() -> None:
    lines = [*TWICE, *run("b", "w1", 4.0, 4.0, 4.1, 4.2), *run("b", "w2", 11.0, 11.0, 11.1, 11.2)]
    killed = Disruption("sigkill", "w1", 2.4, 2.4, may_repeat=True)
    found = judge([sent("a"), sent("b", after=("a",))], parse(lines), [killed])
    assert found.twice["b"] == "sent twice by a"


def test_the_next_step_of_a_chain_may_be_published_twice_while_confirmations_are_lost() -> None:
    lines = [
        *run("a", "w1", 2.0, 2.0, 3.0, 3.1),
        *run("b", "w1", 6.0, 6.0, 6.1, 6.2),
        *run("b", "w2", 7.0, 7.0, 7.1, 7.2),
    ]
    chain = [sent("a", "chain"), sent("b", "chain", after=("a",))]
    assert judge(chain, parse(lines), [Disruption("cut", "", 2.9, 2.9, **KEPT)]).twice == {
        "b": "published by a while cut"
    }
    assert judge(chain, parse(lines), [Disruption("cut", "", 5.5, 5.5, **KEPT)]).unexplained


def test_a_producer_publishes_twice_only_what_it_retries_while_the_broker_is_away() -> None:
    lines = [*run("a", "w1", 12.0, 12.0, 12.1, 12.2), *run("a", "w2", 13.0, 13.0, 13.1, 13.2)]
    cut = Disruption("cut", "", 4.0, 4.0, **KEPT)
    assert judge([sent("a", "chain", until=9.0)], parse(lines), [cut]).twice == {"a": "published while cut"}
    assert judge([sent("a", "chain", until=2.0)], parse(lines), [cut]).unexplained
    assert judge([sent("a", "short", until=9.0)], parse(lines), [cut]).unexplained


def test_what_nobody_sent_is_unexplained() -> None:
    assert judge([], parse(TWICE), [Disruption("sigkill", "w1", 2.4, 2.4, may_repeat=True)]).unexplained


def test_the_body_of_a_chord_is_owed_unless_a_part_ran_twice() -> None:
    body = sent("b", kind="chord", after=("a",))
    assert judge([sent("a"), body], parse(ONCE), []).lost == ("b",)
    killed = Disruption("sigkill", "w1", 2.4, 2.4, may_repeat=True)
    found = judge([sent("a"), body], parse(TWICE), [killed])
    assert (found.lost, found.miscounted_chords) == ((), 1)


def test_the_body_of_a_chord_that_a_worker_got_is_owed() -> None:
    """Whatever its parts did: it was sent."""
    body = sent("b", kind="chord", after=("a",))
    killed = Disruption("sigkill", "w1", 2.4, 2.4, may_repeat=True)
    settled = ["got b w2 11.0", "begun b w2 11.1", "gone b w2 11.2"]
    for lines in (settled, settled[:2], settled[:1]):
        found = judge([sent("a"), body], parse([*TWICE, *lines]), [killed])
        assert (found.lost, found.miscounted_chords) == (("b",), 0)


def test_an_outage_of_the_results_explains_another_body_of_a_chord_and_nothing_else() -> None:
    """The broker is there all the time: it has what it is told, and a drain ends as always."""
    results = Disruption("results_killed", "", 2.0, 9.0, may_repeat=False, counts_anew=True)
    bodies = [*run("b", "w1", 12.0, 12.0, 12.1, 12.2), *run("b", "w2", 13.0, 13.0, 13.1, 13.2)]
    body = sent("b", kind="chord", after=("a",))
    found = judge([sent("a"), body], parse([*ONCE, *bodies]), [results])
    assert found.twice == {"b": "published by a while results_killed"}
    step = sent("b", kind="chain", after=("a",))
    assert judge([sent("a"), step], parse([*ONCE, *bodies]), [results]).unexplained
    assert cut_off(Disruption("drain", "w1", 2.2, 3.2, may_repeat=False), 6.5, [results]).may_repeat is False
    killed = Disruption("sigkill", "w1", 8.0, 8.0, may_repeat=True)
    again = [*ONCE, *run("a", "w2", 10.0, 10.0, 10.5, 10.6)]
    for kind in ("short", "retry", "forwarded"):
        assert verdict(again, results, killed, kind=kind).unexplained, "it was acknowledged at 2.6"


def test_a_task_waits_with_its_result_and_what_takes_its_message_meanwhile_repeats_it() -> None:
    """Settled only when the result is stored (docs/guarantees.md): a connection that is lost before takes it along."""
    results = Disruption("results_killed", "", 2.4, 7.5, may_repeat=False, delays_results=True)
    cut, later = Disruption("cut", "", 8.5, 8.6, **LOST), Disruption("cut", "", 13.0, 13.1, **LOST)
    lines = [*run("a", "w1", 1.9, 2.0, 2.5), *run("a", "w2", 15.0, 15.0, 15.5, 15.6)]
    valued = Sent("a", "result", 1.0, 1.1, result="of a")
    assert judge([valued], parse(lines), [results, cut]).twice == {"a": "cut"}
    assert judge([valued], parse(lines), [cut]).unexplained, "nothing to wait for"
    assert judge([valued], parse(lines), [results, later]).unexplained, "stored, and settled, long before"
    assert judge([sent("a")], parse(lines), [results, cut]).unexplained, "it has no result"
    settled = [*ONCE, *run("a", "w2", 15.0, 15.0, 15.5, 15.6)]
    assert judge([valued], parse(settled), [results, cut]).unexplained, "it was settled at 2.6"


def test_a_drain_repeats_only_what_it_held_while_the_broker_was_away() -> None:
    """What was settled before, and what a fault after the drain's end could not reach, has no cause."""
    drain = Disruption("drain", "w1", 2.2, 3.2, may_repeat=False)
    again = [*ONCE, *run("a", "w2", 8.0, 8.0, 8.5, 8.6)]
    later, during = Disruption("cut", "", 21.0, 21.0, **KEPT), Disruption("cut", "", 5.0, 5.0, **KEPT)
    elsewhere = Disruption("silent_connection", "w2", 2.4, 9.0, **KEPT)
    assert cut_off(drain, 6.5, [drain, later, elsewhere]) == drain
    assert verdict(again, cut_off(drain, 6.5, [drain, later]), later).unexplained
    cut = cut_off(drain, 6.5, [drain, during])
    assert (cut.start, cut.end, cut.may_repeat) == (5.0, 6.5, True)
    assert verdict(again, cut, during).unexplained, "it was settled 2.4 s before the broker went"
    running = [*run("a", "w1", 1.9, 2.0), *run("a", "w2", 8.0, 8.0, 8.5, 8.6), "done a w1 6.4"]
    assert verdict(running, cut, during).twice == {"a": "drain w1"}


def test_who_is_killed_by_its_probe_repeats_only_what_it_had_not_settled() -> None:
    """It wrote its last line at 9 and stood still since then."""
    other = run("b", "w1", 8.0, 8.1, 8.9, 9.0)
    killed = killed_by_probe("w1", 15.0, parse([*ONCE, *other, *run("c", "w2", 14.0)]))
    assert (killed.start, killed.end) == (9.0, 15.0)
    assert verdict([*ONCE, *other, *run("a", "w2", 20.0, 20.0, 20.5, 20.6)], killed).unexplained, "settled at 2.6"
    assert verdict([*run("a", "w1", 8.0, 8.1), *run("a", "w2", 20.0, 20.0, 20.5, 20.6), "done a w1 9.0"], killed).kept
    last = [*run("a", "w1", 8.0, 8.1, 8.9, 9.0), *run("a", "w2", 20.0, 20.0, 20.5, 20.6)]
    assert verdict(last, killed).twice == {"a": "probe_failed w1"}, "its hub stood still before that left it"


FORGETS = Disruption("failover", "", 64.0, 65.0, may_repeat=False, forgets_until=65.0)
"""The master died at 65, and its replica lacked the second before."""
AWAY = Disruption("failover", "", 65.0, 70.0, may_repeat=False, loses_confirmations=True, counted=False)
"""Until it was promoted at 70."""
FAILOVER = (FORGETS, AWAY)


def published(at: float, kind: str = "short", after: tuple[str, ...] = ()) -> Sent:
    return Sent("a", kind, at, at + 0.1, after, at + 0.1)


def test_what_was_published_just_before_a_master_died_is_counted_apart() -> None:
    found = judge([published(64.5)], [], FAILOVER)
    assert (found.forgotten, found.lost, found.kept) == (1, (), True)
    assert found.disruptions == {"failover": 1}
    assert judge([published(64.5)], [], [Disruption("cut", "", 64.0, 105.0, **KEPT)]).lost == ("a",)


NOT_FORGOTTEN = {
    "it was published to the new master": (published(96.0), []),
    "it was published before": (published(1.0), []),
    "it was begun and acknowledged and not done": (published(1.0), [*run("a", "w1", 70.0, 70.1), "gone a w1 70.6"]),
    "it was acknowledged in the last second": (published(1.0), ["got a w1 64.1", "gone a w1 64.5"]),
    "it was acknowledged before": (published(1.0), ["got a w1 20.0", "begun a w1 20.1", "gone a w1 20.5"]),
    "the new master gave it to a worker": (published(64.5), ["got a w1 70.0", "begun a w1 70.1"]),
}


@pytest.mark.parametrize("case", NOT_FORGOTTEN)
def test_what_the_replica_had_or_was_acknowledged_is_lost(case: str) -> None:
    task, lines = NOT_FORGOTTEN[case]
    found = judge([task], parse(lines), FAILOVER)
    assert (found.lost, found.forgotten) == (("a",), 0)


def test_a_booking_that_the_replica_lacks_is_counted_apart() -> None:
    assert judge([published(1.0)], parse(["got a w1 64.5", "begun a w1 64.6"]), FAILOVER).forgotten == 1


SECOND = run("a", "w2", 80.0, 80.1, 80.2, 80.3)

REPEATED_BY_A_FAILOVER = {
    "the new master lacks that it was fetched": [*run("a", "w1", 64.5, 64.6, 66.0, 66.1), *SECOND],
    "it was on its way to its worker": [*run("a", "w1", 65.5, 65.6, 66.0, 66.1), *SECOND],
    "the new master lacks that it was settled": [*run("a", "w1", 20.0, 20.1, 64.4, 64.5), *SECOND],
    "its settlement was on its way for a second": [*run("a", "w1", 20.0, 20.1, 62.9, 63.1), *SECOND],
}


@pytest.mark.parametrize("case", REPEATED_BY_A_FAILOVER)
def test_a_failover_repeats_what_was_fetched_or_settled_in_the_last_second(case: str) -> None:
    found = judge([published(1.0)], parse(REPEATED_BY_A_FAILOVER[case]), FAILOVER)
    assert found.twice == {"a": "failover"}
    thrice = [*REPEATED_BY_A_FAILOVER[case], *run("a", "w3", 90.0, 90.0, 90.5, 90.6)]
    assert judge([published(1.0)], parse(thrice), FAILOVER).unexplained, "a third run needs a cause of its own"
    assert judge([published(1.0)], parse(REPEATED_BY_A_FAILOVER[case]), [AWAY]).unexplained


NOT_REPEATED_BY_A_FAILOVER = {
    "its worker had it before, and settled it after": [*run("a", "w1", 60.0, 60.1, 75.0, 75.1), *SECOND],
    "its worker had it before, and settled it meanwhile": [*run("a", "w1", 60.0, 60.1, 66.0, 66.1), *SECOND],
    "its worker had it before, and ran on": [*run("a", "w1", 60.0, 60.1), *SECOND, "done a w1 95.0"],
    "it was settled long before": [*run("a", "w1", 60.0, 60.1, 60.2, 60.3), *SECOND],
    "it was fetched from the new master": [*run("a", "w1", 71.0, 71.1, 72.0, 72.1), *SECOND],
    "it waited in its queue": [*run("a", "w1", 80.0, 80.1, 80.2, 80.3), *run("a", "w2", 90.0, 90.1, 90.2, 90.3)],
}


@pytest.mark.parametrize("case", NOT_REPEATED_BY_A_FAILOVER)
def test_a_failover_repeats_nothing_that_a_worker_only_had(case: str) -> None:
    assert judge([published(1.0)], parse(NOT_REPEATED_BY_A_FAILOVER[case]), FAILOVER).unexplained


def test_what_a_worker_published_during_a_failover_may_be_there_twice() -> None:
    retried = ["got a w1 60.0", "begun a w1 60.1", "gone a w1 70.2", *run("a", "w1", 70.5, 70.6, 70.7, 70.8), *SECOND]
    assert judge([published(1.0, "retry")], parse(retried), FAILOVER).twice == {"a": "failover"}
    later = ["got a w1 71.5", "begun a w1 71.6", "gone a w1 71.7", *run("a", "w1", 72.5, 72.6, 72.7, 72.8), *SECOND]
    assert judge([published(1.0, "retry")], parse(later), FAILOVER).unexplained


def test_what_stood_still_may_have_been_fetched_before_a_master_died() -> None:
    lines = [*run("a", "w1", 74.5, 74.6, 74.7, 74.8), *SECOND]
    assert judge([published(1.0)], parse(lines), FAILOVER).unexplained
    stalled = Disruption("freeze", "w1", 50.0, 75.0, may_repeat=True, stalls=True)
    assert judge([published(1.0)], parse(lines), [*FAILOVER, stalled]).kept


def test_what_is_settled_without_a_master_is_sent_to_the_next_one() -> None:
    lines = [*run("a", "w1", 60.0, 60.1, 66.0, 66.1), *SECOND]
    killed = Disruption("sigkill", "w1", 71.0, 71.0, may_repeat=True)
    assert judge([published(1.0)], parse(lines), [*FAILOVER, killed]).twice == {"a": "sigkill w1"}
    late = Disruption("sigkill", "w1", 76.0, 76.0, may_repeat=True)
    assert judge([published(1.0)], parse(lines), [*FAILOVER, late]).unexplained


RESULT = Sent("a", "result", 1.0, 1.1, result="of a")


def test_a_result_that_can_be_read_and_is_right_is_counted() -> None:
    found = judge([RESULT], parse(ONCE), [], readings=[Reading("a", "SUCCESS", "of a")])
    assert (found.read, found.kept) == (1, True)


def test_a_task_that_is_done_and_has_no_result_fails_the_run() -> None:
    found = judge([RESULT], parse(ONCE), [])
    assert found.unread == ("a result, sent at 1.00, is done and has no result",)
    assert not found.kept


@pytest.mark.parametrize(("state", "value"), [("SUCCESS", "of b"), ("FAILURE", "of a"), ("RETRY", "None")])
def test_a_wrong_result_fails_the_run(state: str, value: str) -> None:
    found = judge([RESULT], parse(ONCE), [], readings=[Reading("a", state, value)])
    assert found.wrong == (f"a result, sent at 1.00: {state} {value!r} in place of 'of a'",)
    assert (found.read, found.kept) == (0, False)


def test_nobody_reads_the_result_of_a_task_that_has_none_or_was_never_done() -> None:
    assert judge([sent("a")], parse(ONCE), []).kept
    killed = judge([Sent("a", "early", 1.0, 1.1, result="of a")], [], [])
    assert (killed.unread, killed.kept) == ((), True)


def test_a_retry_that_the_replica_lacks_is_counted_apart() -> None:
    lines = ["got a w1 64.1", "begun a w1 64.2", "gone a w1 64.5"]
    assert judge([published(1.0, "retry")], parse(lines), FAILOVER).forgotten == 1
    earlier = ["got a w1 20.1", "begun a w1 20.2", "gone a w1 20.5"]
    assert judge([published(1.0, "retry")], parse(earlier), FAILOVER).lost == ("a",)


def test_what_follows_a_task_that_ended_just_before_a_master_died_is_counted_apart() -> None:
    steps = [sent("p", "chain"), sent("a", "chain", after=("p",)), sent("b", "chain", after=("a",))]
    assert judge(steps, parse(run("p", "w1", 63.9, 63.9, 64.5, 64.6)), FAILOVER).forgotten == 2
    assert judge(steps, parse(run("p", "w1", 1.2, 1.2, 1.5, 1.6)), FAILOVER).lost == ("a", "b")
    chord = [sent("p", "chord"), sent("q", "chord"), sent("a", "chord", after=("p", "q"))]
    first, last = run("p", "w1", 63.9, 63.9, 64.5, 64.6), run("q", "w1", 90.0, 90.0, 90.5, 90.6)
    assert judge(chord, parse([*first, *last]), FAILOVER).lost == ("a",), "the last part's worker publishes the body"


def test_a_line_that_a_kill_cut_short_is_skipped() -> None:
    assert parse(["done a w1", "don", "", "done a w1 2.5"]) == parse(["done a w1 2.5"])


def test_what_is_done_after_its_time_is_late_and_not_lost() -> None:
    found = judge(
        [Sent("t1", "short", 1.0, 1.1), Sent("t2", "short", 1.0, 1.1)],
        [Event("done", "t1", "w1", 5.0), Event("done", "t2", "w1", 20.0)], [], due=10.0,
    )  # fmt: skip
    assert found.kept
    assert (found.done, found.late) == (2, 1)


CUT = Disruption("cut", "", 10.0, 10.0, **KEPT)
BUSY = [Sent(f"t{number}", "short", 10.0 + number, 10.1 + number, (), 10.1 + number) for number in range(70)]
"""One task a second since the cut."""


def done_by(worker: str, tasks: list[Sent]) -> list[Event]:
    """All of them, at once."""
    return [
        Event(what, one.identity, worker, one.at + 0.1 * step)
        for one in tasks
        for step, what in enumerate(("got", "begun", "done", "gone"), 2)
    ]


def test_a_worker_that_begins_nothing_for_a_minute_after_a_fault_hangs() -> None:
    """The others do its work, so that nothing is lost."""
    workers = [Process("w1", 0.0, 82.0), Process("w2", 0.0, 82.0)]
    found = judge(BUSY, done_by("w1", BUSY), [CUT], processes=workers)
    assert (found.lost, found.unexplained) == ((), ())
    assert found.hung == ("w2 began nothing from 10.00 to 82.00: 70 messages went to others",)
    assert not found.kept


NOT_HUNG = {
    "it began one": ([Process("w2", 0.0, 82.0)], [*done_by("w1", BUSY[:30] + BUSY[31:]), *done_by("w2", BUSY[30:31])]),
    "it ended before": ([Process("w2", 0.0, 69.0)], done_by("w1", BUSY)),
    "it started later": ([Process("w2", 23.0, 82.0)], done_by("w1", BUSY)),
    "it works for another queue": ([Process("p1", 0.0, 82.0, companion=True)], done_by("w1", BUSY)),
}


@pytest.mark.parametrize("case", NOT_HUNG)
def test_a_worker_without_messages_or_without_a_minute_does_not_hang(case: str) -> None:
    workers, events = NOT_HUNG[case]
    assert judge(BUSY, events, [CUT], processes=workers).kept


def test_a_worker_to_which_something_else_was_done_meanwhile_gets_its_minute_again() -> None:
    workers, events = [Process("w2", 0.0, 82.0)], done_by("w1", BUSY)
    assert judge(BUSY, events, [CUT, Disruption("freeze", "w2", 20.0, 44.0, may_repeat=True)], processes=workers).kept
    assert judge(BUSY, events, [CUT, Disruption("freeze", "w1", 20.0, 44.0, may_repeat=True)], processes=workers).hung


def test_few_messages_prove_nothing_unless_one_waits_for_a_minute() -> None:
    workers, few = [Process("w2", 0.0, 82.0)], BUSY[:20]
    assert judge(few, done_by("w1", few), [CUT], processes=workers).kept
    late = [Event(one.what, one.identity, one.worker, one.at + 75.0) for one in done_by("w2", few[:1])]
    found = judge(few, [*done_by("w1", few[1:]), *late], [CUT], processes=workers)
    assert found.hung == ("w2 began nothing from 10.00 to 82.00: 19 messages went to others, t0 waited",)


def test_a_message_that_was_taken_before_its_sender_had_the_confirmation_does_not_wait() -> None:
    """A chord's sender writes its parts down as well, which takes as long as the Redis of the results is silent."""
    workers, few = [Process("w2", 0.0, 82.0)], BUSY[:20]
    few = [Sent("t0", "chord", 10.0, 20.0, (), 20.0), *few[1:]]
    assert judge(few, done_by("w1", few), [CUT], processes=workers).kept


def test_a_companion_hangs_if_what_was_forwarded_to_it_waits() -> None:
    forwarded = Sent("t1", "forwarded", 11.0, 11.1, (), 11.1)
    sent_on = [Event("got", "t1", "w1", 11.2), Event("gone", "t1", "w1", 11.4)]
    late = done_by("p1", [Sent("t1", "forwarded", 90.0, None)])
    processes = [Process("p1", 0.0, 88.0, companion=True), Process("w1", 0.0, 88.0)]
    assert len(judge([forwarded], [*sent_on, *late], [CUT], processes=processes).hung) == 1


def test_a_drain_that_does_not_end_hangs() -> None:
    overran = Process("w1", 0.0, 20.0, told=True, status=-9, left=39.0, overran=True)
    assert judge([], [], [], processes=[overran]).hung == ("w1 was told to drain at 20.00 and did not end",)


CRASHED = {
    "a traceback": (Process("w1", 0.0, 20.0, status=1, log="Error: no"), "by itself with status 1: Error: no"),
    "it was not asked to": (Process("w1", 0.0, 20.0, status=0), "by itself with status 0:"),
    "a signal from nobody": (Process("w1", 0.0, 20.0, status=-9), "by itself with status -9:"),
    "another signal": (Process("w2", 0.0, 20.0, status=-11), "by itself with status -11:"),
    "a drain with a traceback": (Process("w2", 0.0, 20.0, told=True, status=1), "while it drained with status 1:"),
}  # fmt: skip


@pytest.mark.parametrize("case", CRASHED)
def test_a_process_that_ends_by_itself_has_crashed(case: str) -> None:
    process, told = CRASHED[case]
    killed = Disruption("sigkill", "w2", 15.0, 15.0, may_repeat=True)
    found = judge([], [], [killed], processes=[process])
    assert found.crashed == (f"{process.worker} ended {told}",)
    assert not found.kept


@pytest.mark.parametrize("kind", ["sigkill", "companion_killed", "probe_failed", "out_of_memory"])
def test_a_process_that_was_killed_has_not_crashed(kind: str) -> None:
    killed = Disruption(kind, "w1", 15.0, 15.0, may_repeat=True)
    assert judge([], [], [killed], processes=[Process("w1", 0.0, 20.0, status=-9)]).kept
    assert judge([], [], [], processes=[Process("w1", 0.0, 20.0, told=True, status=0), Process("w2", 0.0, 90.0)]).kept


APART = [
    *run("s", "w1", 1.0, 1.1), *run("s", "w3", 5.0, 5.1),  # two workers ended with it
    *run("long", "w2", 9.0, 9.1, 78.0, 78.1), "got s w2 9.5", "begun s w2 78.2", "done s w2 78.3", "gone s w2 78.3",
]  # fmt: skip


def test_a_worker_that_lets_what_runs_end_because_of_a_suspect_does_not_hang() -> None:
    """Run 5002: a task of 60 s ran, and a message that had been delivered twice waited for its end."""
    workers = [Process("w1", 0.0, 82.0), Process("w2", 0.0, 82.0)]
    busy = done_by("w1", BUSY)
    assert not judge(BUSY, [*busy, *parse(APART)], [CUT], processes=workers).hung
    no_suspect = [line for line in APART if not line.startswith(("got s w3", "begun s w3"))]
    assert judge(BUSY, [*busy, *parse(no_suspect)], [CUT], processes=workers).hung
    nothing_runs = [line for line in APART if " long " not in line]
    assert judge(BUSY, [*busy, *parse(nothing_runs)], [CUT], processes=workers).hung
    ended = [line.replace("done long w2 78.0", "done long w2 12.0") for line in APART]
    assert judge(BUSY, [*busy, *parse(ended)], [CUT], processes=workers).hung, "it could begin from then on"
    alone = [*APART[:4], "got s w2 9.5", "begun s w2 10.0", "done s w2 78.0", "gone s w2 78.1"]
    assert not judge(BUSY, [*busy, *parse(alone)], [CUT], processes=workers).hung, "it runs the suspect alone"
    settled = [*APART[:-4], "got s w2 9.5", "gone s w2 9.6"]
    assert judge(BUSY, [*busy, *parse(settled)], [CUT], processes=workers).hung, "it has given the suspect back"
