"""JSON alone by default; whatever else an app wants, its resource must say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery

from greenworker.brokers.serializers import restrict, restrict_tasks
from greenworker.misconfigured import MisconfiguredError


def app(**conf: Any) -> Celery:
    made = Celery("content", set_as_current=False)
    made.conf.update(**conf)
    return made


def nothing() -> None:
    """A task."""


def test_json_alone_needs_no_word() -> None:
    plain = app()
    restrict(plain, ["json"])
    assert plain.conf.accept_content == ["application/json"]
    assert plain.conf.result_accept_content == ["application/json"]


@pytest.mark.parametrize(
    "conf",
    [
        {"accept_content": ["json", "pickle"]},
        {"accept_content": ["application/x-python-serialize"]},
        {"result_accept_content": ["pickle"]},
        {"task_serializer": "pickle"},
        {"result_serializer": "pickle"},
        {"accept_content": {"json", "pickle"}},
    ],
)
def test_pickle_is_refused_in_four_parts_unless_the_resource_says_so(conf: dict[str, Any]) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        restrict(app(**conf), ["json"])
    said = json.loads(caught.value.as_json())
    assert said["field"] == "worker.acceptContent"
    assert said["value"] == "json"
    assert "run code" in said["reason"]
    assert next(iter(conf)) in said["reason"]
    assert "add" in said["fix"]
    willing = app(**conf)
    restrict(willing, ["json", "pickle"])
    assert willing.conf.accept_content == ["application/json", "application/x-python-serialize"]


def test_what_the_resource_does_not_accept_is_refused_before_a_message_is_lost() -> None:
    with pytest.raises(MisconfiguredError, match="is lost"):
        restrict(app(task_serializer="msgpack"), ["json"])


def test_a_single_task_is_held_to_the_same() -> None:
    mixed = app()
    mixed.task(name="plain")(nothing)
    restrict_tasks(mixed, ["json"])
    mixed.task(name="dangerous", serializer="pickle")(nothing)
    with pytest.raises(MisconfiguredError, match="task dangerous"):
        restrict_tasks(mixed, ["json"])
    restrict_tasks(mixed, ["json", "pickle"])


def test_an_unknown_serializer_is_named() -> None:
    with pytest.raises(MisconfiguredError, match="does not know"):
        restrict(app(), ["json", "telepathy"])
