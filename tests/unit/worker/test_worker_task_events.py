"""Task events that are buffered on green threads."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from greenworker.compat import keep_events_of_the_meantime


def test_what_others_add_while_events_are_sent_is_sent_next(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery(broker="memory://", set_as_current=False)
    with app.connection_for_write() as connection:
        dispatcher = app.events.Dispatcher(connection, buffer_group={"task"})
        keep_events_of_the_meantime(dispatcher)
        sent: list[list[str]] = []

        def publish(events: list[dict[str, Any]], *_: Any, **__: Any) -> None:
            sent.append([event["uuid"] for event in events])
            if len(sent) == 1:
                dispatcher.send("task-succeeded", uuid="of the meantime")

        monkeypatch.setattr(dispatcher, "_publish", publish)
        dispatcher.send("task-received", uuid="first")
        for _ in range(3):
            dispatcher.flush()
    assert sent == [["first"], ["of the meantime"]]
