"""The work queue keeps client-go's contract: each key once, never twice at a time, and one broken key delays no
other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from greenfleet.controller import workqueue
from greenfleet.controller.keys import DoubtfulPoolKey, ExporterKey, Key, PoolKey
from greenfleet.controller.workqueue import WorkQueue
from greenfleet.k8s.client import NotLeaderError, TransientError

Work = Callable[[PoolKey], Awaitable[None]]


def key(name: str) -> PoolKey:
    return PoolKey("shop", name)


A, B = key("a"), key("b")


def run(work: Work, scenario: Callable[[WorkQueue[PoolKey]], Coroutine[Any, Any, None]], *, workers: int = 8) -> None:
    """A scenario with a queue that works."""

    async def main() -> None:
        queue = WorkQueue[PoolKey](workers=workers)
        running = asyncio.create_task(queue.run(work))
        try:
            async with asyncio.timeout(10):
                await scenario(queue)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "_FIRST_DELAY_SECONDS", 0.01)


def test_a_key_that_is_added_often_is_worked_on_once() -> None:
    done: Counter[PoolKey] = Counter()

    async def work(key: PoolKey) -> None:
        done[key] += 1

    async def scenario(queue: WorkQueue[PoolKey]) -> None:
        for _ in range(100):
            queue.add(A)
        queue.add(B)
        while done[B] == 0:
            await asyncio.sleep(0)

    run(work, scenario)
    assert done == {A: 1, B: 1}


def test_a_key_that_is_added_while_it_is_worked_on_is_worked_on_again_and_never_at_the_same_time() -> None:
    running: Counter[PoolKey] = Counter()
    worst, done = 0, 0
    release = asyncio.Event()

    async def work(key: PoolKey) -> None:
        nonlocal worst, done
        running[key] += 1
        worst = max(worst, running[key])
        await release.wait()
        running[key] -= 1
        done += 1

    async def scenario(queue: WorkQueue[PoolKey]) -> None:
        queue.add(A)
        while not running[A]:
            await asyncio.sleep(0)
        for _ in range(5):
            queue.add(A)
        release.set()
        while done < 2:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)

    run(work, scenario)
    assert (worst, done) == (1, 2)


def test_one_broken_key_never_delays_another() -> None:
    done: list[str] = []

    async def work(key: PoolKey) -> None:
        if key.name == "broken":
            raise RuntimeError("a bug")
        if key.name == "refused":
            raise TransientError("503", 503)
        done.append(key.name)

    async def scenario(queue: WorkQueue[PoolKey]) -> None:
        for name in ("broken", "refused", *map(str, range(50))):
            queue.add(key(name))
        while len(done) < 50:
            await asyncio.sleep(0)

    run(work, scenario, workers=1)
    assert sorted(done, key=int) == [str(number) for number in range(50)]


def test_a_key_that_hangs_does_not_stop_the_others() -> None:
    done: list[str] = []

    async def work(key: PoolKey) -> None:
        if key.name == "hangs":
            await asyncio.Event().wait()
        done.append(key.name)

    async def scenario(queue: WorkQueue[PoolKey]) -> None:
        for name in ("hangs", *map(str, range(20))):
            queue.add(key(name))
        while len(done) < 20:
            await asyncio.sleep(0)

    run(work, scenario)


def test_a_refusal_is_tried_again_until_it_works_and_waits_longer_each_time(caplog: pytest.LogCaptureFixture) -> None:
    tries = 0

    async def work(_: PoolKey) -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise TransientError("503", 503)

    async def scenario(queue: WorkQueue[PoolKey]) -> None:
        queue.add(A)
        while tries < 4:
            await asyncio.sleep(0.001)

    run(work, scenario)
    queue = WorkQueue[PoolKey]()
    delays = [queue._backoff(A) for _ in range(20)]
    assert all(0.75 * 0.01 * 2**step <= delay <= 0.01 * 2**step for step, delay in enumerate(delays[:5]))
    assert max(delays) <= 60


def test_success_forgets_earlier_failures() -> None:
    tries = 0

    async def work(_: PoolKey) -> None:
        nonlocal tries
        tries += 1
        if tries in (1, 2, 4):
            raise TransientError("503", 503)

    async def scenario(queue: WorkQueue[PoolKey]) -> None:
        for wanted in (3, 5):
            queue.add(A)
            while tries < wanted:
                await asyncio.sleep(0.001)
        assert queue._failures == {}

    run(work, scenario)


def test_the_api_servers_own_retry_after_is_respected() -> None:
    class Recording(WorkQueue[PoolKey]):
        later: list[float]

        def add_later(self, key: PoolKey, seconds: float) -> None:
            self.later = [*getattr(self, "later", []), seconds]

    async def work(_: PoolKey) -> None:
        raise TransientError("429", 429, retry_after_seconds=17.0)

    async def main() -> None:
        queue = Recording()
        running = asyncio.create_task(queue.run(work))
        queue.add(A)
        while not getattr(queue, "later", None):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert queue.later == [17.0]

    asyncio.run(main())


def test_a_bug_is_logged_once_with_its_traceback_and_tried_again_slowly(caplog: pytest.LogCaptureFixture) -> None:
    tries = 0

    async def work(_: PoolKey) -> None:
        nonlocal tries
        tries += 1
        raise ZeroDivisionError("oops")

    async def scenario(queue: WorkQueue[PoolKey]) -> None:
        queue.add(A)
        while not queue._timers:
            await asyncio.sleep(0)
        due = queue._timers[A].when() - asyncio.get_running_loop().time()
        assert due > 200

    run(work, scenario)
    assert tries == 1
    assert caplog.text.count("ZeroDivisionError: oops") == 1


def test_what_is_not_the_leaders_business_is_dropped_silently(caplog: pytest.LogCaptureFixture) -> None:
    tried = asyncio.Event()

    async def work(_: PoolKey) -> None:
        tried.set()
        raise NotLeaderError("standby")

    async def scenario(queue: WorkQueue[PoolKey]) -> None:
        queue.add(A)
        await tried.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert queue._timers == {}

    run(work, scenario)
    assert caplog.text == ""


def test_what_a_lapse_of_the_lease_refused_is_worked_on_again() -> None:
    leads = False
    done = asyncio.Event()

    async def work(_: PoolKey) -> None:
        if not leads:
            raise NotLeaderError("lapsed")
        done.set()

    async def scenario(queue: WorkQueue[PoolKey]) -> None:
        nonlocal leads
        queue.add(A)
        for _ in range(5):
            await asyncio.sleep(0)
        leads = True
        queue.retry_refused()
        await done.wait()

    run(work, scenario)


def test_an_event_brings_a_waiting_key_forward() -> None:
    done = asyncio.Event()

    async def work(_: PoolKey) -> None:
        done.set()

    async def scenario(queue: WorkQueue[PoolKey]) -> None:
        queue.add_later(A, 3600)
        queue.add(A)
        await done.wait()
        assert queue._timers == {}

    run(work, scenario)


@pytest.mark.parametrize("delays", [(60.0, 0.05), (0.05, 60.0)], ids=["the later one first", "the earlier one first"])
def test_of_two_delays_the_one_that_ends_first_counts(delays: tuple[float, float]) -> None:
    """A retry must not wait for a resync that was planned before it."""
    done = asyncio.Event()

    async def work(key: PoolKey) -> None:
        del key
        done.set()

    async def scenario(queue: WorkQueue[PoolKey]) -> None:
        for seconds in delays:
            queue.add_later(A, seconds)
        await done.wait()

    run(work, scenario)


def test_a_key_that_has_failed_for_days_is_still_tried_again() -> None:
    """Its delay is bounded before it is worked out: 2 to the power of 1,024 is no number, and ended the operator."""
    queue = WorkQueue[PoolKey]()
    queue._failures[A] = 5000
    assert 0 < queue._backoff(A) <= workqueue._LAST_DELAY_SECONDS


def test_a_namespace_with_a_thousand_pools_waits_for_them_alone() -> None:
    done: list[Key] = []
    few = (ExporterKey("shop", "broker/url"), PoolKey("shop", "feeds"), DoubtfulPoolKey(PoolKey("other", "feeds")))
    crowd = [PoolKey("crowd", str(number)) for number in range(1_000)]

    async def work(key: Key) -> None:
        await asyncio.sleep(0)
        done.append(key)

    async def main() -> None:
        queue = WorkQueue[Key](workers=2)
        for key in (*crowd, *few):
            queue.add(key)
        running = asyncio.create_task(queue.run(work))
        async with asyncio.timeout(10):
            while len(done) < 1_003:
                await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    assert max(done.index(key) for key in few) < 12
    assert [key for key in done if key.namespace == "crowd"] == crowd


def test_keys_of_several_kinds_are_never_the_same() -> None:
    """A doubt must not stand in for a reconciliation that is queued, nor an exporter for a pool of its name."""
    pool = PoolKey("shop", "feeds")
    keys: set[Key] = {pool, DoubtfulPoolKey(pool), ExporterKey("shop", "feeds"), PoolKey("shop", "feeds")}
    assert len(keys) == 3
    assert {str(key) for key in keys} == {"pool:shop/feeds", "doubt:shop/feeds", "exporter:shop/feeds"}
