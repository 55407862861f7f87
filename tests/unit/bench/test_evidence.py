"""The evidence decides what is deleted: it has to compare like with like, go on where it stopped, and never use runs of
other code.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.evidence import page, rows, store, table
from bench.evidence.store import Job, Store
from greenfleet.autoscaling import PARTS
from greenfleet.simulator.totals import Outcome, total

GOOD = Outcome(100.0, 0, 0.1, 0.5, 1.0, 0)
DEAR = Outcome(110.0, 0, 0.1, 0.5, 1.0, 0)
LATE = Outcome(90.0, 7, 0.2, 1.2, 1.1, 0)


def job(autoscaler: str, trace: str = "1") -> Job:
    return Job(autoscaler, "tuning", trace, int(trace), 2.0)


def test_every_part_has_a_row_and_every_row_every_trace() -> None:
    autoscalers = rows.autoscalers("tuning")
    assert {f"greenfleet without {part}" for part in PARTS} < set(autoscalers)
    jobs = rows.jobs("tuning", autoscalers, 2.0)
    assert len(set(jobs)) == len(jobs) == 200 * len(autoscalers)
    assert {one.autoscaler for one in jobs[: 20 * len(autoscalers)]} == set(autoscalers), (
        "a block compares all rows before the next begins"
    )
    assert len(rows.traces("known")) == 2 * 13
    assert not set(rows.traces("holdout")) & set(rows.traces("tuning"))


def test_an_evaluation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "out" / "tuning.jsonl"
    Store(path).add(job("greenfleet"), GOOD)
    with path.open("a") as file:
        file.write('{"job": {"autoscaler": "greenf')  # the machine went away here
    again = Store(path)
    assert again.found == {job("greenfleet"): GOOD}
    again.add(job("formula"), LATE)
    assert Store(path).found == {job("greenfleet"): GOOD, job("formula"): LATE}


def test_runs_of_other_code_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tuning.jsonl"
    Store(path).add(job("greenfleet"), GOOD)
    before = store.digest("greenfleet")
    (tmp_path / "autoscaling").mkdir()
    (tmp_path / "autoscaling" / "tuning.py").write_text("X = 1")
    monkeypatch.setattr(store, "PACKAGE", tmp_path)
    assert store.digest("greenfleet") != before
    assert not Store(path).found


def test_a_row_is_compared_over_the_traces_that_it_shares_with_the_whole(tmp_path: Path) -> None:
    kept = Store(tmp_path / "tuning.jsonl")
    part = f"greenfleet without {next(iter(PARTS))}"
    for autoscaler, outcome in (("greenfleet", GOOD), (part, DEAR)):
        kept.add(job(autoscaler, "1"), outcome)
    kept.add(job("greenfleet", "2"), LATE)
    totals = table.totals(kept, "tuning", 2.0, ["greenfleet", part])
    assert (totals["greenfleet"].traces, totals["greenfleet"].violated_seconds) == (2, 7)
    assert (totals[part].traces, totals[part].violated_difference) == (1, 0)
    assert totals[part].cost_ratio == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("without", "expected"),
    [([DEAR], True), ([LATE], True), ([GOOD], False), ([Outcome(101.0, 0, 0.1, 0.5, 1.0, 0)], False)],
)
def test_a_part_earns_two_percent_or_a_violated_second(without: list[Outcome], expected: bool) -> None:
    reference = {("1", 1): GOOD}
    assert table.earns(total({("1", 1): without[0]}, reference)) is expected


def test_a_total_counts_the_traces_that_got_worse_and_better() -> None:
    reference = {("1", 1): GOOD, ("2", 2): LATE, ("3", 3): GOOD}
    one = total({("1", 1): LATE, ("2", 2): GOOD, ("3", 3): GOOD}, reference)
    assert (one.worse, one.better, one.violated_seconds, one.violated_traces, one.violated_difference) == (
        1,
        1,
        7,
        1,
        0,
    )


def test_the_best_keda_breaks_the_fewest_promises_and_is_the_cheapest_of_those(tmp_path: Path) -> None:
    kept = Store(tmp_path / "tuning.jsonl")
    first, second, third = rows.FITTED[:3]
    for autoscaler, outcome in (("greenfleet", GOOD), (first, DEAR), (second, LATE), (third, GOOD)):
        kept.add(job(autoscaler), outcome)
    totals = table.totals(kept, "tuning", 2.0, rows.autoscalers("tuning"))
    assert table.best_keda(totals, "tuning") == third
    section = table.section(kept, "tuning", 2.0)
    assert f"`{third}`" in section
    assert "earns nothing" not in section, "no part was run"


def test_a_job_runs_and_survives_its_line(tmp_path: Path) -> None:
    smallest = min(rows.traces("tuning"), key=lambda one: len(rows._trace("tuning", one[0]).arrivals))
    one = Job("formula", "tuning", *smallest, 2.0)
    outcome = rows.do(one)
    assert outcome.worker_seconds > 0
    Store(tmp_path / "x.jsonl").add(one, outcome)
    assert Store(tmp_path / "x.jsonl").found == {one: outcome}
    assert json.loads((tmp_path / "x.jsonl").read_text())["digest"]


def test_the_page_shows_each_set_each_scrape_and_what_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = tmp_path / "deleted.json"
    deleted.write_text(json.dumps({"warm-pool": {"what": "Kept workers.", "worth": "nothing"}}))
    monkeypatch.setattr(page, "DELETED", deleted)
    stores = {("tuning", scrape): Store(tmp_path / f"{scrape}.jsonl") for scrape in (2.0, 15.0)}
    part = next(iter(PARTS))
    for (name, scrape), kept in stores.items():
        found = ((rows.WHOLE, GOOD), (rows.LEARNED, GOOD), (rows.FITTED[0], DEAR), (f"greenfleet without {part}", GOOD))
        for autoscaler, outcome in found:
            kept.add(Job(autoscaler, name, "1", 1, scrape), outcome)
    every = {
        (name, scrape): stores.get((name, scrape), Store(tmp_path / "none"))
        for name in rows.SETS
        for scrape in (2.0, 15.0)
    }
    text = page.page(every)
    assert f"without `{part}` (earns nothing here)" in text
    assert "| tuning | 15 s | 1 | 0 | 0 | 0.909 | 0 | 0.909 |" in text
    assert "| `warm-pool` | Kept workers. | nothing |" in text
    assert "## holdout" not in text, "nothing was run there"
