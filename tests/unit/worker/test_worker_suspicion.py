"""What makes a message a suspect, who runs with whom, and when one is proven the cause."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery.worker import state

from greenworker.brokers.amqp.settlement import AmqpSettlement
from greenworker.brokers.dead_letters import AT, DELIVERIES, DeadLetter
from greenworker.brokers.settlement import Settlement
from greenworker.brokers.suspicion import (
    HEADER,
    MEMORY_SECONDS,
    NONE,
    TOGETHER,
    Suspicion,
    after_death,
    may_have_started,
    read,
)
from greenworker.exporter.rabbitmq import letter_of
from greenworker.exporter.redis import renewed
from greenworker.pool.isolation import Isolation, refuse, store_failure, take_header

NOW = 1_800_000_000.0


def test_one_death_is_an_accident_and_two_make_a_suspect() -> None:
    once = NONE.after_death(NOW)
    assert not once.suspect
    assert once.after_death(NOW + 60).suspect


def test_deaths_far_apart_are_unrelated() -> None:
    later = NONE.after_death(NOW).after_death(NOW + MEMORY_SECONDS + 1)
    assert (later.deaths, later.suspect) == (1, False)


def test_a_suspect_stays_one() -> None:
    suspect = NONE.after_death(NOW).after_death(NOW + 1)
    assert suspect.after_death(NOW + 10 * MEMORY_SECONDS).suspect


def test_only_runs_alone_prove_anything() -> None:
    suspect = NONE.after_death(NOW).after_death(NOW)
    together = suspect.begun(alone=False)
    assert together.begun(alone=False).deaths_alone == 0
    assert together.begun(alone=True).deaths_alone == 1
    assert suspect.begun(alone=True).begun(alone=True).deaths_alone == 2


FORGED = ["1 0 " + "9" * 400, "0 1000000000 0", "1000000000 0 0", "2 0 0 1000000000"]


@pytest.mark.parametrize("text", ["", "x", "1", "1 2", "1 2 3 4 5", "1,2,3", None, 7, ["1", "2", "3"], *FORGED])
def test_a_strange_header_says_nothing(text: Any) -> None:
    assert read({HEADER: text}) == NONE
    assert read(None) == NONE


def test_the_header_says_what_is_known() -> None:
    known = Suspicion(2, 1, 1_800_000_000)
    assert read({HEADER: known.header()}) == known


def test_a_header_is_for_this_delivery_only() -> None:
    """Celery copies a message's headers into the retries of its task."""
    message = SimpleNamespace(headers={HEADER: "2 1 5", "task": "a"})
    take_header(message)
    assert message.headers == {"task": "a"}
    assert message.suspicion == Suspicion(2, 1, 5)


@pytest.mark.parametrize(
    ("eta", "started"),
    [
        (None, True),
        ("2027-01-15T08:00:01+00:00", False),
        ("2027-01-15T08:00:01Z", False),
        ("2027-01-15T07:59:59+00:00", True),
        ("tomorrow", True),
    ],
)
def test_what_waits_for_its_eta_has_not_started(eta: str | None, started: bool) -> None:
    assert may_have_started({"eta": eta}, NOW) is started


def test_a_message_on_redis_carries_its_deaths() -> None:
    payload = json.dumps({"body": "", "headers": {"task": "a"}, "properties": {}}).encode()
    twice = after_death(after_death(payload))
    assert read(json.loads(twice)["headers"]).deaths == 2
    waits = json.dumps({"headers": {"eta": "2999-01-01T00:00:00+00:00"}}).encode()
    assert after_death(waits) == waits
    assert after_death(b"nonsense") == b"nonsense"
    deep = b'{"headers": {"id": "1"}, "body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert after_death(deep) == deep, "one that nobody can read must not keep a dead worker's others from coming back"


class Pool:
    """Items are names; everything about the broker is in `begun`."""

    def __init__(self, suspicions: dict[str, Suspicion], max_deaths: int = 2) -> None:
        self.requests = {
            name: SimpleNamespace(name=name, message=SimpleNamespace(suspicion=suspicion))
            for name, suspicion in suspicions.items()
        }
        self.started: list[str] = []
        self.dead: list[str] = []
        self.begun: dict[str, Suspicion] = {}
        self.isolation = Isolation(self.started.append, self.requests.__getitem__, lambda: False, self.dead.append)
        self.isolation.max_deaths = max_deaths
        self.isolation.attempts = self
        for name in suspicions:
            self.isolation.add(name)

    def so_far(self, message: Any, known: Suspicion) -> Suspicion:
        return known

    def begin(self, message: Any, after: Suspicion) -> None:
        name = next(name for name, request in self.requests.items() if request.message is message)
        self.begun[name] = after

    def end(self, message: Any) -> None:
        """Nothing."""

    def requeue(self, message: Any, suspicion: Suspicion) -> bool:
        return True

    def dead_letter(self, message: Any, task: str, task_id: str, deaths: int) -> str:
        return "feeds"

    def turn(self) -> list[str]:
        """Everything that runs ends, and others start."""
        for name in list(self.isolation.running):
            assert self.isolation.ended(name)
        before = len(self.started)
        self.isolation.advance()
        return self.started[before:]


def test_suspects_that_were_never_tried_run_a_few_together_and_before_the_graver_ones() -> None:
    names = {f"harmless-{number}": Suspicion(2) for number in range(TOGETHER + 3)}
    pool = Pool({"grave": Suspicion(3, 1), **names, "graver": Suspicion(3, 2)})
    assert pool.turn() == list(names)[:TOGETHER]
    assert pool.turn() == list(names)[TOGETHER:]
    assert pool.turn() == ["grave"]
    assert pool.turn() == ["graver"]
    assert pool.isolation.active
    assert pool.turn() == []
    assert not pool.isolation.active
    assert pool.begun["harmless-0"].deaths_alone == 0
    assert pool.begun["grave"].deaths_alone == 1


def test_the_attempt_is_written_before_the_task_starts() -> None:
    pool = Pool({"a": Suspicion(2)})
    start, seen = pool.isolation._start, []
    pool.isolation._start = lambda item: (seen.append(item in pool.begun), start(item))
    pool.turn()
    assert seen == [True]


def test_a_proven_cause_is_not_started_again() -> None:
    pool = Pool({"cause": Suspicion(2, 3), "other": Suspicion(2)}, max_deaths=2)
    assert pool.turn() == ["other"]
    assert pool.turn() == []
    assert pool.dead == ["cause"]


def test_a_result_backend_that_is_down_does_not_escape() -> None:
    class Backend:
        def mark_as_failure(self, *_: Any, **__: Any) -> None:
            raise OSError("down")

    request = SimpleNamespace(
        id="1", name="a", task=SimpleNamespace(backend=Backend()), _context=None, store_errors=True
    )
    store_failure(request, RuntimeError("why"))


def test_a_dead_letter_survives_json() -> None:
    letter = DeadLetter("feeds", "proj.a", "1", "worker_lost", NOW, 3, b"\xff{}")
    assert DeadLetter.from_json(letter.to_json()) == letter
    for nonsense in ("", "[]", "{}", '{"queue": 1}'):
        with pytest.raises(ValueError):
            DeadLetter.from_json(nonsense)


def test_a_requeued_message_is_as_new_and_goes_to_the_list_of_its_priority() -> None:
    message = {
        "body": "x",
        "headers": {"task": "a", HEADER: "2 4 5", "redelivered": True},
        "properties": {
            "priority": 7,
            "delivery_tag": "t",
            "delivery_info": {"redelivered": True, "routing_key": "feeds"},
        },
    }
    payload, priority = renewed(json.dumps(message).encode())
    assert json.loads(payload) == {
        "body": "x",
        "headers": {"task": "a"},
        "properties": {"priority": 7, "delivery_tag": "t", "delivery_info": {"routing_key": "feeds"}},
    }
    assert priority == 7
    assert renewed(b"nonsense") == (b"nonsense", 0)


@pytest.mark.parametrize("forged", [10**400, "inf", "nan", [], "x", None])
def test_a_dead_letter_with_forged_headers_is_shown(forged: Any) -> None:
    message = SimpleNamespace(body=b"x", headers={AT: forged, DELIVERIES: forged, "id": "1"}, properties={})
    letter = letter_of(message, "feeds")
    assert (letter.id, letter.at, letter.deliveries) == ("1", 0.0, 0)
    payload = json.dumps({"properties": {"priority": float("inf")}, "headers": {}}).encode()
    assert renewed(payload) == (payload, 0)


def test_after_each_turn_of_suspects_the_others_have_one_of_that_length(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rests = 100.0, []
    monkeypatch.setattr("greenworker.pool.isolation.monotonic", lambda: now)
    pool = Pool({"grave": Suspicion(3, 1), "graver": Suspicion(3, 2)})
    pool.isolation._rest = rests.append
    now = 120.0  # what ran before has ended
    assert pool.turn() == ["grave"]
    now = 160.0
    assert pool.isolation.ended("grave")
    assert rests == [60.0]
    assert not pool.isolation.active
    pool.isolation.resume()
    assert pool.isolation.active
    assert pool.turn() == ["graver"]
    now = 170.0
    assert pool.isolation.ended("graver")
    assert rests == [60.0], "no suspect waits"
    assert not pool.isolation.active


def test_what_is_taken_back_while_its_attempt_is_written_down_does_not_start() -> None:
    """A drain or a lost connection gives its message back meanwhile: it would run twice."""
    started: list[Any] = []
    request = SimpleNamespace(name="t", id="1", message=SimpleNamespace(suspicion=Suspicion(2, 0, 0), headers={}))
    isolation = Isolation(started.append, lambda item: request, lambda: False, lambda item: None)

    class Slow:
        forgotten = 0

        def so_far(self, message: Any, known: Suspicion) -> Suspicion:
            return known

        def begin(self, message: Any, after: Suspicion) -> None:
            isolation.take_waiting()

        def end(self, message: Any) -> None:
            self.forgotten += 1

    record = isolation.attempts = Slow()  # type: ignore[assignment]
    isolation.max_deaths = 3
    isolation.add("item")
    isolation.advance()
    assert started == []
    assert not isolation.active
    assert record.forgotten == 1  # type: ignore[attr-defined]


def test_a_lost_connection_whose_worker_lives_is_taken_back_once() -> None:
    once = NONE.after_death(NOW).after_death(NOW + 1).without(1)
    assert (once.deaths, once.survived, once.suspect) == (1, 1, False)
    assert read({HEADER: once.header()}) == once
    again = once.after_death(NOW + 2)
    assert again.without(1) == again, "that one was taken back before"
    assert again.without(2).deaths == 1
    assert NONE.after_death(NOW).without(5) == Suspicion(0, 0, int(NOW), 1), "there was but one to take back"


def test_what_was_taken_back_is_forgotten_with_the_deaths() -> None:
    later = NONE.after_death(NOW).without(1).after_death(NOW + MEMORY_SECONDS + 2)
    assert (later.deaths, later.survived) == (1, 0)


class Refusals:
    """A settlement that says what it is asked to refuse, and whether it has done so."""

    def __init__(self, *, done: bool = True) -> None:
        self.refused: list[Any] = []
        self.done = done

    def refuse(self, message: Any, error: Exception) -> bool:
        self.refused.append(message)
        return self.done


def delivered(*, acknowledged: bool = False) -> Any:
    return SimpleNamespace(message=SimpleNamespace(delivery_tag="tag", acknowledged=acknowledged), id="id")


@pytest.mark.parametrize("where", ["settled", "runs", "in the pool"])
def test_an_error_of_celerys_leaves_alone_what_is_settled_or_runs(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settlement, request = Refusals(), delivered(acknowledged=where == "settled")
    monkeypatch.setattr(state, "active_requests", [request] if where == "runs" else [])
    known = [request] if where == "in the pool" else []
    assert not refuse(cast("Settlement", settlement), request.message, ValueError("odd"), known)
    assert not settlement.refused


def test_what_celery_cannot_take_is_no_longer_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    settlement, request, ready = Refusals(), delivered(), []
    monkeypatch.setattr(state, "reserved_requests", [request])
    monkeypatch.setattr(state, "task_ready", ready.append)
    assert refuse(cast("Settlement", settlement), request.message, ValueError("odd"), [])
    assert (settlement.refused, ready) == ([request.message], [request])


def test_what_cannot_be_set_aside_ends_the_worker_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "task_ready", pytest.fail)
    with pytest.raises(ValueError, match="odd"):
        refuse(cast("Settlement", Refusals(done=False)), delivered().message, ValueError("odd"), [])


def test_what_is_acknowledged_while_the_copy_of_another_is_confirmed_gets_no_copy() -> None:
    settlement = AmqpSettlement.__new__(AmqpSettlement)
    one, other = (SimpleNamespace(acknowledged=False, headers={}, suspicion=NONE.begun(alone=False)) for _ in range(2))
    sent: list[Any] = []

    def send_back(message: Any, _: Suspicion) -> bool:
        sent.append(message)
        other.acknowledged = True
        return True

    settlement._going_back = 0
    settlement.attempts = cast("Any", SimpleNamespace(send_back=send_back))
    settlement._returns = cast("Any", SimpleNamespace(give_back=sent.extend))
    settlement.requeue_started([one, other])
    assert sent == [one]
