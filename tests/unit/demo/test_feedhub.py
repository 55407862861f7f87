"""Promises of the feed hub: its feeds, its ledger, its load. Real sockets, no broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

ledger = pytest.importorskip("feedhub.ledger")
plan = pytest.importorskip("feedhub.plan")
server = pytest.importorskip("feedhub.server")
client = pytest.importorskip("feedhub.client")
demo_pattern = pytest.importorskip("demo.pattern")


@pytest.fixture
def feeds(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A feed server on a free port, without its latency."""
    monkeypatch.setattr(server, "latency_seconds", lambda number: 0.0)
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(loop.create_server(server.FeedProtocol, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    port = listening.sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    listening.close()
    loop.close()


def test_a_feed_is_the_same_every_time_and_about_four_kilobytes() -> None:
    assert server.document(17) == server.document(17) != server.document(18)
    assert all(3_500 < len(server.document(number)) < 4_700 for number in range(200))


def test_latency_depends_on_the_feed_only_and_stays_within_its_bounds() -> None:
    seen = [server.latency_seconds(number) for number in range(2_000)]
    assert seen == [server.latency_seconds(number) for number in range(2_000)]
    assert 0.05 <= min(seen) < 0.06
    assert 0.49 < max(seen) <= 0.5


def test_the_client_keeps_its_connection_and_replaces_one_that_was_closed(feeds: str) -> None:
    reader = client.FeedClient(feeds)
    assert reader.get("/feeds/3") == server.document(3)
    (connection,) = reader._idle
    local = connection.sock.getsockname()
    assert reader.get("/feeds/4") == server.document(4)
    assert reader._idle[0].sock.getsockname() == local
    connection.sock.shutdown(2)
    assert reader.get("/feeds/5") == server.document(5)


def test_a_feed_that_does_not_exist_is_an_error(feeds: str) -> None:
    with pytest.raises(client.http.client.HTTPException, match="404"):
        client.FeedClient(feeds).get("/feeds/none")


def test_a_line_of_the_ledger_can_be_read_back() -> None:
    execution = ledger.Execution("run-1:7", 1_700_000_000.125, 3.5, 0.25, 12)
    assert ledger.Execution.parse(execution.line()) == execution


def _execution(task: str, started: float, waited: float) -> object:
    return ledger.Execution(task, started, waited, 0.3, 12)


def test_the_account_tells_done_lost_twice_and_unknown() -> None:
    executions = [
        _execution("r:0", 10.0, 1.0),
        _execution("r:1", 11.5, 2.0),
        _execution("r:1", 19.0, 9.5),
        _execution("other:5", 12.0, 0.1),
    ]
    account = ledger.account(["r:0", "r:1", "r:2"], executions)
    assert (account.sent, account.done, account.lost, account.twice, account.unknown) == (3, 2, 1, 1, 1)


def test_a_wait_is_that_of_the_first_start() -> None:
    account = ledger.account(["r:1"], [_execution("r:1", 19.0, 9.5), _execution("r:1", 11.5, 2.0)])
    assert account.waited_max_seconds == 2.0
    assert account.waits == ((11, 2.0, 2.0),)


def test_an_empty_ledger_has_lost_everything_that_was_sent() -> None:
    account = ledger.account(["r:0"], [])
    assert (account.done, account.lost, account.waited_max_seconds) == (0, 1, 0.0)


@pytest.mark.parametrize(("q", "value"), [(0.5, 2.0), (0.99, 4.0), (0.0, 1.0), (1.0, 4.0)])
def test_a_quantile_is_a_value_that_occurred(q: float, value: float) -> None:
    assert ledger.quantile([1.0, 2.0, 3.0, 4.0], q) == value


def test_a_phase_publishes_its_burst_at_once_and_its_rate_over_time() -> None:
    phase = plan.Phase("ramp", seconds=10, rate=2, to_rate=4, burst=100)
    assert [phase.due(second) for second in (0, 5, 10, 99)] == [100, 112, 130, 130]
    assert phase.total() == 130
    assert plan.Phase("all", burst=7).total() == 7


def test_an_unknown_field_of_a_phase_is_refused() -> None:
    with pytest.raises(TypeError, match="ratte"):
        plan.parse([{"name": "quiet", "seconds": 3, "ratte": 5}])


def test_the_demo_and_the_producer_mean_the_same_load() -> None:
    for pattern in (demo_pattern.full(), demo_pattern.short()):
        phases = plan.parse([phase.for_producer() for phase in pattern])
        assert [phase.total() for phase in phases] == [phase.messages() for phase in pattern]
