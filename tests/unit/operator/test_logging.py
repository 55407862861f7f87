"""What the operator's log looks like to a log shipper."""

from __future__ import annotations

import json
import logging

import pytest

from greenfleet.app import configure_logging
from greenfleet.settings import Settings


@pytest.fixture(autouse=True)
def _restored() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_json_object_with_what_kopf_adds_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings())
    logging.getLogger("greenfleet.x").info("a %s", "pool", extra={"k8s_ref": {"name": "x"}, "settings": object()})
    (line,) = lines(capsys)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "info", "logger": "greenfleet.x", "message": "a pool"}


def test_no_password_is_logged_in_a_message_or_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings())
    try:
        raise ValueError("redis://user:geheim@redis:6379 is down")
    except ValueError:
        logging.getLogger("greenfleet").exception("no answer from amqp://user:geheim@broker/")
    (line,) = lines(capsys)
    assert line["message"] == "no answer from amqp://***@broker/"
    assert "ValueError" in line["traceback"]
    assert "geheim" not in json.dumps(line)


def test_text_for_people_is_redacted_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="text"))
    logging.getLogger("greenfleet").warning("no answer from amqp://user:geheim@broker/")
    said = capsys.readouterr().err
    assert said.endswith("WARNING no answer from amqp://***@broker/\n")
