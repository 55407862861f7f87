"""The table of the fault runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tests.faults import table
from tests.faults.again import as_line
from tests.faults.history import Verdict

VERDICT = Verdict(
    confirmed=1000,
    twice={"t1": "sigkill w1", "t2": "published by t1 while cut", "t3": "sent twice by t2, broker_killed"},
    disruptions={"sigkill": 2, "cut": 3},
    orphaned=("t9",),
)
ABOUT = {"started": "2026-11-29T11:00:00+00:00", "seconds": 1800, "rounds": 3, "per_second": 45.0}


def line(broker: str, seed: int, verdict: Verdict = VERDICT) -> table.Run:
    found: table.Run = json.loads(json.dumps({**ABOUT, **as_line(broker, seed, verdict)}))
    return table.compact(found)


def row(text: str, head: str) -> list[str]:
    found = next(each for each in text.splitlines() if each.startswith(f"| {head} |"))
    return [cell.strip() for cell in found.split("|")[2:-1]]


def test_a_row_says_how_often_a_fault_was_tried_and_what_it_explains() -> None:
    text = table.table([line("redis", 1), line("cluster", 2), line("cluster", 3)])
    assert row(text, "fault") == ["Redis", "three nodes", "all"]
    assert row(text, "sigkill") == ["2 (1 twice)", "4 (2 twice)", "6 (3 twice)"]
    assert row(text, "cut")[0] == "3 (1 twice)"
    assert row(text, "broker killed")[0] == "0 (1 twice)"
    assert row(text, "**tasks confirmed**") == ["1,000", "2,000", "3,000"]
    assert row(text, "**lost**") == ["0", "0", "0"]
    assert row(text, "held by the broker for nobody") == ["1", "2", "3"]
    assert "3 runs in 1.5 hours" in text


def test_a_lost_task_stands_in_the_table() -> None:
    text = table.table([line("redis", 1, dataclasses.replace(VERDICT, lost=("t1", "t2")))])
    assert row(text, "**lost**") == ["2", "2"]


def test_a_worker_that_crashed_stands_in_the_table_of_the_runs_that_were_judged_by_it() -> None:
    earlier = {name: value for name, value in line("redis", 1).items() if name not in table.COUNTED_LATER}
    assert "crashed" not in table.table([earlier])
    crashed = line("redis", 2, dataclasses.replace(VERDICT, crashed=("w1 ended by itself with status 1: no",)))
    text = table.table([earlier, crashed, line("cluster", 3)])
    assert row(text, "workers that crashed, in 2 runs") == ["1", "0", "1"]
    assert row(text, "workers that hung, in 2 runs") == ["0", "0", "0"]
    assert row(table.table([crashed]), "workers that crashed") == ["1", "1"]


def test_results_that_were_read_back_stand_in_the_table() -> None:
    found = dataclasses.replace(VERDICT, read=400, unread=("t1 result, is done and has no result",), wrong=("t2", "t3"))
    text = table.table([line("redis", 1, found)])
    assert row(text, "results read back") == ["400", "400"]
    assert (row(text, "**results missing**"), row(text, "**results wrong**")) == (["1", "1"], ["2", "2"])


def test_runs_of_earlier_rules_stand_apart() -> None:
    earlier = {name: value for name, value in line("redis", 1).items() if name not in table.COUNTED_LATER}
    now, before = table.tables([earlier, line("cluster", 2)]).split("\n\n**")
    assert now.startswith("**By today's rules**: 1 runs in 0.5 hours")
    assert row(now, "fault") == ["three nodes", "all"]
    assert before.startswith("By earlier rules**: 1 runs")
    assert row(before, "fault") == ["Redis", "all"]
    assert "earlier" not in table.tables([line("cluster", 2)])


def test_a_run_that_is_known_is_replaced() -> None:
    again = line("redis", 1, dataclasses.replace(VERDICT, confirmed=5))
    assert [run["confirmed"] for run in table.merged([line("redis", 1), line("redis", 2)], [again])] == [5, 1000]


def test_a_log_is_added_with_whatever_else_it_says(tmp_path: Path) -> None:
    file, log = tmp_path / "runs.jsonl", tmp_path / "log"
    file.write_text(json.dumps(dict(line("redis", 1))) + "\n")
    run = json.dumps({**ABOUT, **as_line("quorum", 2, VERDICT)})
    log.write_text(f"the broker starts\n{run}\n" + '{"runs": 1, "tasks": 1000, "broken_seeds": []}\n')
    for _ in range(2):
        found = table.added(file, [log], table.compact)
        assert [(run["broker"], run["seed"]) for run in found] == [("quorum", 2), ("redis", 1)]
    assert [json.loads(each) for each in file.read_text().splitlines()] == found


def test_the_page_has_its_place_for_it() -> None:
    page = table.PAGE.read_text()
    runs = [json.loads(each) for each in table.RUNS.read_text().splitlines()]
    assert table.placed(page, table.tables(runs)) == page, "python -m tests.faults.table"
