"""A run that was kept is judged again from its files, and the history of a task can be read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.faults import again
from tests.faults.again import History
from tests.faults.history import Disruption, Process, Reading, Sent, parse

DONE = ["got t2 w1 3.0", "begun t2 w1 3.1", "got t2 w2 8.0", "begun t2 w2 8.1", "done t2 w2 8.5", "gone t2 w2 8.6"]
KILLED = Disruption("sigkill", "w1", 5.0, 5.0, may_repeat=True)
ELSEWHERE = Disruption("drain", "w9", 90.0, 91.0, may_repeat=False)
HISTORY = History(
    "quorum",
    7,
    [Sent("t1", "chain", 1.0, 1.2), Sent("t2", "chain", 1.0, 1.2, after=("t1",))],
    [KILLED, ELSEWHERE],
    50.0,
    processes=[Process("w1", 0.0, 5.0, status=-9, left=5.5)],
    unavailable=("out_of_memory",),
    readings=[Reading("t2", "SUCCESS", "of t2")],
)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    HISTORY.save(tmp_path / "history.json")
    (tmp_path / "done").write_text("\n".join(DONE))
    return tmp_path


def test_a_kept_run_has_the_same_verdict_again(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert History.load(kept / "history.json") == HISTORY
    monkeypatch.setattr(sys, "argv", ["again", str(kept)])
    assert again.main() == 1
    line = json.loads(capsys.readouterr().out)
    assert (line["broker"], line["seed"], line["kept"], line["lost"]) == ("quorum", 7, False, ["t1"])
    assert line["unavailable"] == ["out_of_memory"]
    assert line["disruptions"] == {"sigkill": 1, "drain": 1}


def test_a_tasks_history_stands_in_order_with_the_faults_of_its_time() -> None:
    assert HISTORY.tell("t2", parse(DONE)) == [
        "1.000 sent, chain after t1, confirmed at 1.200",
        "3.000 got by w1",
        "3.100 begun by w1",
        "5.000     sigkill w1 until 5.000",
        "8.000 got by w2",
        "8.100 begun by w2",
        "8.500 done by w2",
        "8.600 gone by w2",
        "8.600 read back: SUCCESS 'of t2'",
    ]
