"""`kubectl greenfleet dead-letters`: what is asked of kubectl, and what people see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from greenfleet.cli import dead_letters as cli
from greenfleet.cli.main import main
from greenfleet.manifests import names
from tests.unit.operator.objects import pool

LETTER = {
    "queue": "feeds",
    "task": "proj.parse",
    "id": "7f3a",
    "reason": "worker_lost",
    "at": 1_800_000_000.0,
    "deliveries": 3,
}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that notes its arguments and answers as the API server and the exporter's pod do."""
    pool = {
        "spec": {"broker": {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}}, "queues": ["feeds", "slow"]}
    }
    (tmp_path / "pool.json").write_text(json.dumps(pool))
    (tmp_path / "letters.json").write_text(json.dumps([LETTER]))
    program = tmp_path / "kubectl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f'if [ "$1" = get ]; then cat {tmp_path}/pool.json; else cat {tmp_path}/letters.json; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "calls"


def test_the_list_is_asked_of_the_exporters_pod_for_every_queue(
    calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead-letters", "feeds", "-n", "shop"]) == 0
    exec_call = calls.read_text().splitlines()[-1]
    assert (
        f"exec -n shop deployment/{names.exporter_name('broker/url')} -c queues -- python -m {cli.MODULE}" in exec_call
    )
    assert exec_call.endswith("list --queue=feeds --queue=feeds.prefork --queue=slow --queue=slow.prefork")
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["ID", "TASK", "QUEUE", "REASON", "DELIVERIES", "AT"]
    assert "7f3a  proj.parse  feeds  worker_lost  3" in out


def test_the_exporter_of_a_broker_in_parts_is_found(calls: Path) -> None:
    broker = {"transport": "redis", "host": {"value": "redis"}, "password": {"secretKeyRef": {"name": "r", "key": "p"}}}
    spec = {"broker": {**broker, "keyPrefix": "x:", "newer": True}, "queues": ["feeds"]}
    calls.with_name("pool.json").write_text(json.dumps({"spec": spec}))
    assert main(["dead-letters", "feeds", "-n", "shop"]) == 0
    exporter = names.exporter_name(pool(broker=broker).spec.broker.identity)
    assert f"exec -n shop deployment/{exporter} -c queues" in calls.read_text()


def test_the_module_that_runs_in_the_pod_is_there() -> None:
    worker = Path(__file__).resolve().parents[3] / "worker"
    assert (worker / Path(*cli.MODULE.split("."))).with_suffix(".py").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["requeue"], "--all"),
        (["requeue", "7f3a", "--all"], "--all"),
        (["drop"], "needs the id"),
        (["show"], "needs the id"),
        (["list", "--all"], "leave it out"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused(
    calls: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert main(["dead-letters", "feeds", *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert not calls.exists(), "nobody was asked"


def test_requeue_says_what_went_back(calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead-letters", "feeds", "-n", "shop", "requeue", "7f3a"]) == 0
    assert "requeue 7f3a --queue=feeds" in calls.read_text()
    assert "requeued 1:" in capsys.readouterr().out


def test_an_id_that_is_not_there_is_an_error(calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (calls.parent / "letters.json").write_text("[]")
    assert main(["dead-letters", "feeds", "-n", "shop", "requeue", "other"]) == 1
    assert "nothing to requeue" in capsys.readouterr().out


def test_json_is_the_answer_as_it_is(calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead-letters", "feeds", "-n", "shop", "-o", "json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert found == [LETTER]


@pytest.mark.parametrize(
    "changes",
    [
        {"at": 1e300}, {"at": float("nan")}, {"at": "x"}, {"at": None}, {"id": None}, {"reason": 5}, {"reason": None},
        {"task": "\x1b[2Jevil"}, {"task": "\x9b2J"}, {"task": "\ud800"}, {"task": ["x"]}, None, "x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("output", ["text", "json"])
def test_an_answer_of_whoever_stands_in_the_exporters_place_is_never_a_traceback_nor_a_command_to_the_terminal(
    changes: Any, output: str, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = {**LETTER, **changes} if isinstance(changes, dict) else changes
    (calls.parent / "letters.json").write_text(json.dumps([letter]))
    assert main(["dead-letters", "feedhub", "-n", "shop", "-o", output]) in (0, 1)
    said = capsys.readouterr()
    assert all(one.isprintable() or one == "\n" for one in said.out + said.err)
    assert said.out or said.err
