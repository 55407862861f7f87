"""The table of the fault runs on a cluster."""

from __future__ import annotations

import json

from tests.faults import table as pages
from tests.faults.cluster import table
from tests.faults.cluster.nemesis import KINDS, Attempt
from tests.faults.cluster.run import Outcome
from tests.faults.history import Verdict

VERDICT = Verdict(
    confirmed=1000, twice={"t1": "sigkill w1", "t2": "drain w2"}, disruptions={"drain": 9}, hung=("w1 began nothing",)
)
ATTEMPTS = [
    Attempt("worker_killed", 1, 2, proof="137", again_seconds=7.3),
    Attempt("pod_evicted", 1, 2, proof="gone", again_seconds=30.0),
    Attempt("scale_in", 1, 2, error="not within 90 s", again_seconds=1.0),
]


def line(broker: str) -> table.Run:
    about = {"started": "2026-11-29T23:00:00+00:00", "seconds": 600, "rounds": 1, "per_second": 8.0}
    found: table.Run = json.loads(json.dumps({**about, **Outcome(VERDICT, ATTEMPTS).as_line(broker, 1)}))
    return table.compact(found)


def row(text: str, head: str) -> list[str]:
    found = next(each for each in text.splitlines() if each.startswith(f"| {head} |"))
    return [cell.strip() for cell in found.split("|")[2:-1]]


def test_a_row_says_how_often_a_fault_was_proven_what_it_explains_and_how_long_it_took() -> None:
    text = table.table([line("redis"), line("quorum")])
    assert row(text, "fault") == ["Redis", "quorum queue", "done twice", "works again after, at most"]
    assert row(text, table.WHAT["worker_killed"]) == ["1", "1", "2", "8 s"]
    assert row(text, table.WHAT["pod_evicted"]) == ["1", "1", "0", "30 s"]
    assert table.WHAT["scale_in"] not in text
    assert row(text, "(of other causes)")[2] == "2"
    assert row(text, "**tasks confirmed**")[:2] == ["1,000", "1,000"]
    assert row(text, "**lost**")[:2] == ["0", "0"]
    assert row(text, "workers that hung or crashed")[:2] == ["1", "1"]
    assert row(text, "**faults**")[:2] == ["2", "2"]


def test_each_kind_has_words_for_people() -> None:
    assert set(table.WHAT) == set(KINDS)


def test_the_page_has_its_place_for_it() -> None:
    page = pages.PAGE.read_text()
    runs = [json.loads(each) for each in table.RUNS.read_text().splitlines()]
    assert pages.placed(page, table.table(runs), table.BEGIN, table.END) == page, "python -m tests.faults.cluster.table"
