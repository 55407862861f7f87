"""Writes the table of the fault runs in docs/reliability.md from the JSON lines of the runs.

python -m tests.faults.table                # from tests/faults/runs.jsonl
python -m tests.faults.table LOG.jsonl …    # adds the runs of these logs first; a run that is there already is replaced
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RUNS = Path(__file__).with_name("runs.jsonl")
PAGE = Path(__file__).parents[2] / "docs/reliability.md"
BEGIN, END = "<!-- runs: python -m tests.faults.table -->", "<!-- end of runs -->"
TITLES = {
    "redis": "Redis",
    "sentinel": "Sentinel",
    "classic": "classic queue",
    "quorum": "quorum queue",
    "cluster": "three nodes",
}
COUNTED = ("confirmed", "lost", "unexplained", "orphaned", "forgotten", "early_lost", "miscounted_chords", "late")
COUNTED_LATER = {
    "hung": "workers that hung",
    "crashed": "workers that crashed",
    "read": "results read back",
    "unread": "**results missing**",
    "wrong": "**results wrong**",
}
"""What the first runs were not judged by, with the heads of its rows."""
Run = Mapping[str, Any]


def compact(line: Run) -> dict[str, Any]:
    """What the table needs of a line of `tests.faults.long`."""
    causes = Counter(kind for told in line["twice"].values() for kind in causes_of(told))
    counts = {name: line.get(name, 0) for name in COUNTED}
    counts |= {name: line[name] for name in COUNTED_LATER if name in line}
    return {
        **{name: line[name] for name in ("started", "seconds", "rounds", "per_second", "broker", "seed")},
        **{name: len(value) if isinstance(value, list) else value for name, value in counts.items()},
        "twice": len(line["twice"]),
        "begun_again": line["begun_again"],
        "judged_again": line.get("judged_again", False),
        "faults": dict(sorted(line["disruptions"].items())),
        "causes": dict(sorted(causes.items())),
    }


def causes_of(told: str) -> list[str]:
    """The kinds of the disruptions that explain why one task was done twice, as `history.judge` tells them."""
    found = []
    for cause in told.split(", "):
        kind = re.sub(r"^(published|confirmation|copied) (by \S+ )?while ", "", cause)
        found.append("parent" if kind.startswith("sent twice") else kind.split()[0])
    return found


def merged(known: Iterable[Run], new: Iterable[Run]) -> list[Run]:
    """By their beginning; a new line takes the place of the same run's."""
    by_run = {(run["started"], run["broker"], run["seed"]): run for run in [*known, *new]}
    return [by_run[key] for key in sorted(by_run)]


def tables(runs: Sequence[Run]) -> str:
    """One for the runs that were judged by today's rules, which read results back, and one for those before."""
    now, before = [run for run in runs if "read" in run], [run for run in runs if "read" not in run]
    parts = [("By today's rules", now), ("By earlier rules", before)]
    return "\n\n".join(f"**{head}**: {table(of_it)}" for head, of_it in parts if of_it)


def table(runs: Sequence[Run]) -> str:
    """Markdown: a row for each fault and one for each sum, a column for each broker."""
    brokers = [name for name in TITLES if any(run["broker"] == name for run in runs)]
    faults: dict[str, Counter[str]] = defaultdict(Counter)
    causes: dict[str, Counter[str]] = defaultdict(Counter)
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        faults[run["broker"]].update(run["faults"])
        causes[run["broker"]].update(run["causes"])
        sums[run["broker"]].update({name: run[name] for name in (*COUNTED, "twice", "begun_again", "seconds")}, runs=1)
        sums[run["broker"]]["faults"] += sum(run["faults"].values())
    lines = [_row("fault", [TITLES[name] for name in brokers], "all"), _row("---", ["---"] * len(brokers), "---")]
    for kind in sorted({kind for found in [*faults.values(), *causes.values()] for kind in found} - {"parent"}):
        tried, twice = [faults[name][kind] for name in brokers], [causes[name][kind] for name in brokers]
        cells = [_cell(*pair) for pair in zip(tried, twice, strict=True)]
        lines.append(_row(kind.replace("_", " "), cells, _cell(sum(tried), sum(twice))))
    repeated = [causes[name]["parent"] for name in brokers]
    lines.append(
        _row(
            "(the task before it in its chain ran twice)",
            [_cell(0, each) for each in repeated],
            _cell(0, sum(repeated)),
        )
    )
    for title, name in (
        ("runs", "runs"),
        ("**faults**", "faults"),
        ("**tasks confirmed**", "confirmed"),
        ("**lost**", "lost"),
        ("**done twice**, with a cause", "twice"),
        ("done twice without a cause", "unexplained"),
        ("begun again after a fault", "begun_again"),
        ("late", "late"),
        ("held by the broker for nobody", "orphaned"),
        ("gone with a master that its replica had not caught up with", "forgotten"),
        ("acknowledged early, and killed", "early_lost"),
        ("bodies of chords of which a part ran twice", "miscounted_chords"),
    ):
        each = [sums[broker][name] for broker in brokers]
        lines.append(_row(title, [f"{number:,}" for number in each], f"{sum(each):,}"))
    for name, title in COUNTED_LATER.items():
        judged = [[run[name] for run in runs if run["broker"] == broker and name in run] for broker in brokers]
        if count := sum(map(len, judged)):
            cells = [f"{sum(each):,}" if each else "" for each in judged]
            total = sum(map(sum, judged))
            among = f", in {count} runs" if count < len(runs) else ""
            lines.append(_row(title + among, cells, f"{total:,}"))
    hours = sum(sums[broker]["seconds"] for broker in brokers) / 3600
    days = sorted({str(run["started"])[:10] for run in runs})
    head = (
        f"{len(runs)} runs in {hours:.1f} hours, of {' and '.join(days)}. A cell says how often a fault was tried, and "
        "how many repetitions it explains."
    )
    return "\n".join([head, "", *lines])


def _row(head: str, cells: Iterable[str], last: str) -> str:
    return f"| {' | '.join([head, *cells, last])} |"


def _cell(tried: int, twice: int) -> str:
    if not tried and not twice:
        return ""
    return f"{tried:,} ({twice:,} twice)" if twice else f"{tried:,}"


def placed(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """*page* with *text* between two marks. Raises ValueError without them."""
    start, stop = page.index(begin) + len(begin), page.index(end)
    return f"{page[:start]}\n{text}\n{page[stop:]}"


def added(file: Path, logs: Iterable[Path], line_of: Callable[[Run], Run]) -> list[Run]:
    """The runs of *file* and those of *logs*, the output of runs; *file* has them all from now on. *line_of*: what it
    keeps of a run's line.
    """
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    said = [line for log in logs for line in log.read_text().splitlines()]
    new = [json.loads(line) for line in said if line.startswith("{") and '"started"' in line]
    runs = merged(known, map(line_of, new))
    file.write_text("".join(json.dumps(run) + "\n" for run in runs))
    return runs


def main(
    file: Path, line_of: Callable[[Run], Run], text: Callable[[Sequence[Run]], str], *, begin: str, end: str
) -> None:
    """Adds logs to *file* and writes its *text* into the page."""
    parser = argparse.ArgumentParser(description="adds fault runs, and writes their table into docs/reliability.md")
    parser.add_argument("logs", nargs="*", type=Path, help="output of runs")
    runs = added(file, parser.parse_args().logs, line_of)
    PAGE.write_text(placed(PAGE.read_text(), text(runs), begin, end))


if __name__ == "__main__":
    main(RUNS, compact, tables, begin=BEGIN, end=END)
