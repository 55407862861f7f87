"""A lost task's message is found wherever it may be."""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

from pathlib import Path

import pytest
from kombu import Connection

from tests.faults.history import Event, Sent
from tests.faults.whereabouts import depths, messages, tell
from tests.integration.worker.harness import RabbitMQ, Redis, eventually
from tests.integration.worker.lanes import RabbitLane, RedisLane


@pytest.mark.parametrize("broker", ["redis", "quorum"])
def test_messages_are_found_in_queues_and_in_the_hands_of_consumers(broker: str, tmp_path: Path) -> None:
    server = Redis(tmp_path) if broker == "redis" else RabbitMQ(tmp_path)
    try:
        lane = RedisLane(server) if isinstance(server, Redis) else RabbitLane(server, broker)
        producer = lane.producer()
        for name in ("t1", "t2"):
            producer.app.send_task("fault_app.io", (name, 0.1), queue=producer.queue)
        with Connection(lane.url) as connection:
            held = connection.channel().basic_get(lane.queue)
            mine, other = ("t1", "t2") if '"t1"' in str(held.body) else ("t2", "t1")
            if broker == "redis":
                assert depths(server) == {lane.queue: (1, 0), "unacked": (0, 1)}
            else:
                eventually(lambda: depths(server) == {lane.queue: (1, 1)}, "one is ready and one is held", every=1.0)
                connection.channel().queue_declare("somebody's", exclusive=True)
            alive = messages(server)
        after = messages(server)
        assert alive[other] == [lane.queue]
        assert after[mine] == [lane.queue] if broker == "quorum" else alive[mine] == ["unacked"]
        lines = tell(
            ["t1", "t2", "t3"],
            [Sent("t1", "short", 5.0, 5.1), Sent("t2", "eta", 6.0, 6.1), Sent("t3", "retry", 7.0, 7.1)],
            [Event("begun", "t3", "w1", 8.0)], alive, after,
        )  # fmt: skip
        assert lines[2] == "t3 retry, sent at 2.0, begun at 3.0 by w1; its message: nowhere"
        assert all("nowhere" not in line for line in lines[:2])
    finally:
        server.stop()
