"""`python -m bench.evidence`: run what is missing, then write the tables. Interrupt it at any time; it goes on where it
stopped.

The last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from bench.evidence import page, rows, table
from bench.evidence.store import Store

OUT = Path("out/evidence")
SCRAPES = (2.0, 15.0, 30.0)
"""Seconds between two scrapes of Prometheus, for the page."""


def main() -> int:
    """Run and report; 0, or 2 where an argument makes no sense."""
    options = _parser().parse_args()
    if options.write:
        stores = {(name, scrape): Store(_path(name, scrape)) for name in rows.SETS for scrape in SCRAPES}
        page.PAGE.write_text(page.page(stores))
        print(json.dumps({"written": str(page.PAGE)}))
        return 0
    known = rows.autoscalers(options.set)
    chosen = options.rows.split(",") if options.rows else known
    if unknown := [row for row in chosen if row not in known]:
        print(
            f"bench.evidence: --rows has {unknown[0]!r}, which is no row: choose from {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    store = Store(_path(options.set, options.scrape))
    if not options.report:
        _run(store, options, chosen)
    print(table.section(store, options.set, options.scrape))
    totals = table.totals(store, options.set, options.scrape, chosen)
    result = {
        "set": options.set,
        "scrape_seconds": options.scrape,
        "rows": {autoscaler: asdict(one) for autoscaler, one in totals.items()},
    }
    text = json.dumps(result)
    _path(options.set, options.scrape).with_suffix(".json").write_text(text + "\n")
    print(text)
    return 0


def _path(name: str, scrape_seconds: float) -> Path:
    return OUT / f"{name}-{scrape_seconds:g}.jsonl"


def _run(store: Store, options: argparse.Namespace, chosen: list[str]) -> None:
    missing = [job for job in rows.jobs(options.set, chosen, options.scrape)[: options.most] if job not in store.found]
    print(f"{len(missing)} runs to do", file=sys.stderr)
    with ProcessPoolExecutor(options.jobs) as pool:
        for start in range(0, len(missing), 200):
            tasks = {pool.submit(rows.do, job): job for job in missing[start : start + 200]}
            for done in as_completed(tasks):
                store.add(tasks[done], done.result())
            print(f"{start + len(tasks)} of {len(missing)} done", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.evidence", description="What each part of the autoscaler is worth."
    )
    parser.add_argument("--set", choices=rows.SETS, default="tuning")
    parser.add_argument("--scrape", type=float, default=2.0, metavar="SECONDS", help="default: %(default)g")
    parser.add_argument(
        "--rows", default="", help="comma separated; default: the whole, each part switched off, formula and KEDA"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--most", type=int, default=None, metavar="N", help="no more than the first N runs")
    parser.add_argument("--report", action="store_true", help="run nothing, only show what is there")
    parser.add_argument(
        "--write", action="store_true", help="run nothing, write docs/project/autoscaler-evidence.md from what is there"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
