"""The checker of the fault runs: what it calls lost, done twice, and explained."""

from __future__ import annotations

from tests.faults.history import Disruption, Event, Sent, judge, parse


def sent(identity: str, kind: str = "short", confirmed: float | None = 1.1, after: tuple[str, ...] = ()) -> Sent:
    return Sent(identity, kind, 1.0, confirmed, after)


def log(*lines: str) -> list[str]:
    return list(lines)


ONCE = log("begun a w1 2.0", "done a w1 2.5")
TWICE = log(*ONCE, "begun a w2 10.0", "done a w2 10.5")


def test_a_confirmed_task_that_was_never_done_is_lost() -> None:
    verdict = judge([sent("a"), sent("b")], parse(ONCE), [])
    assert verdict.lost == ("b",)
    assert not verdict.kept


def test_a_task_that_only_began_is_lost() -> None:
    assert judge([sent("a")], parse(log("begun a w1 2.0")), []).lost == ("a",)


def test_what_the_broker_never_confirmed_is_not_owed() -> None:
    assert judge([sent("a", confirmed=None)], [], []).kept


def test_an_early_acknowledged_task_is_counted_and_not_owed() -> None:
    verdict = judge([sent("a", kind="early")], [], [])
    assert (verdict.early_lost, verdict.kept) == (1, True)


def test_done_twice_without_a_fault_is_unexplained() -> None:
    verdict = judge([sent("a")], parse(TWICE), [])
    assert verdict.unexplained == ("a",)
    assert not verdict.kept


def test_done_twice_is_explained_by_the_death_of_its_worker_only() -> None:
    killed = Disruption("sigkill", "w1", 2.4, 2.4, True)
    assert judge([sent("a")], parse(TWICE), [killed]).twice == {"a": "sigkill w1"}
    other = Disruption("sigkill", "w3", 2.4, 2.4, True)
    assert judge([sent("a")], parse(TWICE), [other]).unexplained == ("a",)


def test_a_fault_long_before_or_after_explains_nothing() -> None:
    before = Disruption("broker_killed", "", 0.2, 0.5, True)
    after = Disruption("broker_killed", "", 20.0, 21.0, True)
    assert judge([sent("a", confirmed=1.1)], parse(TWICE), [before, after]).unexplained == ("a",)


def test_a_clean_drain_explains_nothing() -> None:
    drain = Disruption("drain", "w1", 2.2, 3.0, False)
    assert judge([sent("a")], parse(TWICE), [drain]).unexplained == ("a",)


def test_a_lost_connection_of_the_companion_explains_only_what_was_forwarded() -> None:
    cut = Disruption("cut", "", 2.4, 2.4, False)
    assert judge([sent("a", kind="forwarded")], parse(TWICE), [cut]).twice == {"a": "cut"}
    assert judge([sent("a")], parse(TWICE), [cut]).unexplained == ("a",)


def test_a_broker_that_takes_no_message_explains_a_retry_only_while_it_lasts() -> None:
    unreachable = Disruption("unreachable", "", 2.0, 7.0, may_repeat=False)
    twice = parse(log("begun a w1 2.1", "begun a w1 8.0", "done a w1 8.0", "begun a w2 8.4", "done a w2 8.4"))
    assert judge([sent("a", kind="retry")], twice, [unreachable]).kept
    assert not judge([sent("a")], twice, [unreachable]).kept
    assert not judge(
        [sent("a", kind="retry")], parse(TWICE), [Disruption("unreachable", "", 20.0, 25.0, may_repeat=False)]
    ).kept


def test_what_was_sent_twice_by_its_parent_is_explained() -> None:
    lines = log(*TWICE, "begun b w1 3.0", "done b w1 3.1", "begun b w2 11.0", "done b w2 11.1")
    killed = Disruption("sigkill", "w1", 2.4, 2.4, True)
    verdict = judge([sent("a"), sent("b", after=("a",))], parse(lines), [killed])
    assert verdict.twice["b"] == "sent twice by a"


def test_the_body_of_a_chord_is_owed_unless_a_part_ran_twice() -> None:
    body = sent("b", kind="chord", after=("a",))
    assert judge([sent("a"), body], parse(ONCE), []).lost == ("b",)
    killed = Disruption("sigkill", "w1", 2.4, 2.4, True)
    verdict = judge([sent("a"), body], parse(TWICE), [killed])
    assert (verdict.lost, verdict.miscounted_chords) == ((), 1)


def test_a_line_that_a_kill_cut_short_is_skipped() -> None:
    assert parse(["done a w1", "don", "", "done a w1 2.5"]) == parse(["done a w1 2.5"])


def test_what_is_done_after_its_time_is_late_and_not_lost() -> None:
    verdict = judge(
        [Sent("t1", "short", 1.0, 1.1), Sent("t2", "short", 1.0, 1.1)],
        [Event("done", "t1", "w1", 5.0), Event("done", "t2", "w1", 20.0)], [], due=10.0,
    )  # fmt: skip
    assert verdict.kept
    assert (verdict.done, verdict.late) == (2, 1)


def test_a_message_that_waited_through_a_lost_connection_may_have_been_doubled() -> None:
    waited = [Event(what, "a", worker, at) for worker, at in (("w1", 30.0), ("w2", 50.0)) for what in ("begun", "done")]
    cut = Disruption("cut", "", 10.0, 10.1, may_repeat=True)
    assert judge([sent("a")], waited, [cut]).twice == {"a": "delivered again while cut"}
    for other in (
        Disruption("cut", "", 10.0, 10.1, may_repeat=False),
        Disruption("cut", "", 40.0, 40.1, may_repeat=True),
    ):
        assert judge([sent("a")], waited, [other]).unexplained == ("a",)
