"""Credits beside a model of the broker: messages go to whichever consumer has credit left, also while an answer is
awaited.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenworker.brokers.amqp import prefetch
from greenworker.brokers.amqp.prefetch import CONSUMERS, Credits, Unsettled, shares

MODEL_TAGS = itertools.count(1)


@dataclass
class ModelConsumer:
    queue: str
    credits: int
    cancelled: bool = False


@dataclass
class Model:
    """A channel, kombu's consumer on it and the broker behind it."""

    names: tuple[str, ...]
    unsettled: Unsettled = field(default_factory=Unsettled)
    tag_prefix: str = ""

    def __post_init__(self) -> None:
        self.channel = self
        self.no_ack = None
        self._active_tags: dict[str, str] = {}
        self._tags = itertools.count(1)
        self._queues = {name: ModelQueue(name, self) for name in self.names}
        self._receive_callback = None
        self.ready = dict.fromkeys(self.names, 0)
        self.consumers: dict[str, ModelConsumer] = {}
        self.holds: deque[tuple[int, str]] = deque()
        self.prefetch = 0

    def deliver(self) -> None:
        while True:
            able = [
                (tag, each) for tag, each in self.consumers.items()
                if not each.cancelled and self.ready[each.queue] and self.unsettled.held[tag] < each.credits
            ]  # fmt: skip
            if not able:
                return
            for tag, each in able:
                if self.ready[each.queue]:
                    self.ready[each.queue] -= 1
                    number = next(MODEL_TAGS)
                    self.holds.append((number, tag))
                    self.unsettled.delivered(number, tag)

    def settle(self, count: int, *, queue: str = "") -> None:
        for _ in range(min(count, len(self.holds))):
            number, tag = self.holds.popleft()
            if queue and self.consumers[tag].queue != queue:
                self.holds.append((number, tag))
            else:
                self.unsettled.settled(number)

    def _flush_soon(self) -> None:
        pass

    def basic_qos(self, _size: int, count: int, apply_global: bool) -> None:
        assert not apply_global
        assert count > 0, "0 would be without a limit"
        self.deliver()
        self.prefetch = count

    def basic_cancel(self, tag: str) -> None:
        self.deliver()
        self.consumers[tag].cancelled = True

    def active(self, queue: str) -> int:
        return sum(not each.cancelled for each in self.consumers.values() if each.queue == queue)


@dataclass
class ModelQueue:
    name: str
    model: Model

    def consume(self, tag: str, *_: Any, **__: Any) -> None:
        self.model.consumers[tag] = ModelConsumer(self.name, self.model.prefetch)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second passes at each look."""
    seconds = itertools.count(1)
    monkeypatch.setattr(prefetch, "monotonic", lambda: float(next(seconds)))


def started(*names: str, limit: int) -> tuple[Model, Credits]:
    model = Model(names)
    credits_ = Credits(model, lambda: False)
    credits_.apply(limit)
    return model, credits_


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("resize"), st.integers(1, 300)),
        st.tuples(st.just("publish"), st.integers(1, 200)),
        st.tuples(st.just("settle"), st.integers(1, 200)),
        st.tuples(st.just("turn"), st.just(0)),
    ),
    max_size=60,
)


@given(names=st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]), start=st.integers(1, 300), steps=STEPS)
def test_never_more_is_held_than_the_limit_or_than_was_held_when_it_shrank(
    names: tuple[str, ...], start: int, steps: list[tuple[str, int]]
) -> None:
    model, credits_ = started(*names, limit=start)
    limit = bound = max(start, len(names))
    for number, (step, amount) in enumerate(steps):
        if step == "publish":
            model.ready[names[number % len(names)]] += amount
        elif step == "settle":
            model.settle(amount)
        elif step == "resize":
            limit = max(amount, len(names))
        model.deliver()
        assert credits_.held <= bound
        credits_.apply(limit)
        bound = max(limit, len(model.holds))
        assert credits_.held == len(model.holds)
        assert credits_.committed <= bound, "what the broker may deliver from here"
        model.deliver()
        assert len(model.holds) <= bound
        assert all(model.active(name) <= CONSUMERS for name in names)
        if len(names) == 1:
            assert step != "resize" or credits_.committed >= limit - limit // prefetch.PIECES - 1, "room lies idle"
    while model.holds or any(model.ready.values()):
        model.settle(len(model.holds))
        credits_.apply(limit)
        model.deliver()
    for _ in range(3):
        credits_.apply(limit)
    assert credits_.committed == limit, "all of it comes back"


@given(start=st.integers(1, 200), steps=st.lists(st.integers(1, 200), max_size=30), settled=st.integers(0, 50))
def test_growth_arrives_at_once(start: int, steps: list[int], settled: int) -> None:
    """Also in the middle of a shrink, and however often."""
    model, credits_ = started("a", limit=start)
    model.ready["a"] = 1_000_000
    limit = start
    for wanted in steps:
        grown, limit = wanted > limit, wanted
        model.deliver()
        model.settle(settled)
        credits_.apply(limit)
        model.deliver()
        if grown:
            assert len(model.holds) >= limit


def test_a_shrink_falls_without_a_rise_and_its_consumers_stay_few() -> None:
    model, credits_ = started("a", limit=1000)
    model.ready["a"] = 1_000_000
    model.deliver()
    held = [len(model.holds)]
    for _ in range(1500):
        credits_.apply(10)
        model.deliver()
        held.append(len(model.holds))
        assert model.active("a") <= CONSUMERS
        model.settle(1)
    assert held[0] == 1000
    assert all(later <= earlier for earlier, later in itertools.pairwise(held[:990])), "it only falls"
    assert set(held[995:]) <= {9, 10}
    assert len(model.holds) == 9


def test_a_small_shrink_under_load_leaves_little_idle() -> None:
    model, credits_ = started("a", limit=1000)
    model.ready["a"] = 1_000_000
    for _ in range(3000):
        credits_.apply(900)
        model.deliver()
        assert len(model.holds) >= 900 - 900 // prefetch.PIECES - 1
        model.settle(1)
    assert len(model.consumers) < 30, "each is three round trips to the broker"


def test_a_queue_with_a_backlog_gets_what_the_others_do_not_use_and_gives_it_back() -> None:
    model, credits_ = started("a", "b", limit=100)
    model.ready["a"] = 1_000_000
    for _ in range(5):
        model.deliver()
        credits_.apply(100)
    assert len(model.holds) == 99, "b keeps one, to notice what arrives"
    model.ready["b"] = 1_000_000
    for _ in range(400):
        model.deliver()
        credits_.apply(100)
        assert len(model.holds) <= 100
        model.settle(3)
    model.deliver()
    of_b = sum(model.consumers[tag].queue == "b" for _, tag in model.holds)
    assert 40 <= of_b <= 60, "both have enough to do"


def test_nothing_is_added_once_it_drains() -> None:
    model = Model(("a",))
    stopped: list[bool] = []
    credits_ = Credits(model, lambda: bool(stopped))

    def stop_meanwhile(*_: Any) -> None:
        stopped.append(True)

    model.basic_qos = stop_meanwhile  # type: ignore[assignment]
    credits_.apply(10)
    assert not model.consumers


def test_a_queue_that_remote_control_adds_or_cancels_is_followed() -> None:
    model, credits_ = started("a", limit=10)
    model._queues["b"] = ModelQueue("b", model)
    model.ready["b"] = 0
    credits_.apply(10)
    assert model.active("b") == 1
    del model._queues["a"]
    credits_.apply(10)
    credits_.apply(10)
    assert model.active("a") == 0
    assert credits_.committed == 10
    assert set(model._active_tags) == {tag for tag, each in model.consumers.items() if not each.cancelled}


@given(
    limit=st.integers(1, 1000),
    wants=st.dictionaries(st.text(min_size=1, max_size=3), st.none() | st.integers(1, 500), min_size=1, max_size=8),
)
def test_shares_add_up_and_are_fair(limit: int, wants: dict[str, int | None]) -> None:
    found = shares(limit, wants)
    assert sum(found.values()) == max(limit, len(wants))
    assert min(found.values()) >= 1
    short = [name for name, want in wants.items() if want is None or found[name] < want]
    assert all(found[name] + 1 >= max(found.values()) for name in short), "who gets too little gets no less than others"


def test_a_message_is_known_by_its_queue_also_when_its_consumer_is_cancelled() -> None:
    """Where it is sent on to depends on it."""
    model, credits_ = started("a", "b", limit=20)
    model.ready["a"] = 5
    model.deliver()
    credits_.apply(2)
    assert [credits_.queue_of(tag) for _, tag in model.holds] == ["a"] * 5
    assert any(model.consumers[tag].cancelled for _, tag in model.holds)
    assert credits_.queue_of("a stranger's") == ""


def test_settling_twice_or_all_at_once_is_counted_once() -> None:
    unsettled = Unsettled()
    for number in range(1, 6):
        unsettled.delivered(number, "x")
    unsettled.settled(2)
    unsettled.settled(2)
    assert unsettled.held["x"] == 4
    unsettled.settled_until(3)
    assert unsettled.held["x"] == 2
    unsettled.settled_until(0)
    assert unsettled.held["x"] == 0
