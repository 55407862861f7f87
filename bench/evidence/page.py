"""`docs/project/autoscaler-evidence.md`, written from the runs in `out/evidence`: `python -m bench.evidence
--write`.
"""

from __future__ import annotations

import json
from pathlib import Path

from bench.evidence import rows, table
from bench.evidence.store import Store, digest

PAGE = Path(__file__).parents[2] / "docs" / "project" / "autoscaler-evidence.md"
DELETED = Path(__file__).parent / "deleted.json"
"""Parts that were deleted, with what they had been worth: `{name: {"what": …, "worth": …}}`."""

EARLIER = Path(__file__).parent / "earlier.md"
"""Rows of earlier code that were not run again since."""

INTRODUCTION = """\
# What each part of the autoscaler is worth

This page is generated (`make evidence`, then `python -m bench.evidence --write`); change the generator, not the page.

Every part of the autoscaler that is not the user's own limit has a name and can be switched off: `greenfleet simulate --set tuning --without NAME`.
Each row below switches off one part and runs the same traces again. A part stays if at least one of these is true:

- without it, the same traces cost 2 % more worker-seconds;
- without it, more seconds violate the objective (a second is violated while any message has waited for longer than `maxWait`);
- a property test names it as a promise.

## How to read the tables

- **Runs**: finished so far. A row with fewer runs than the first was interrupted; its ratios are over the traces that it has.
- **Worker-seconds**: of the whole autoscaler, the sum; of every other row, the ratio to it, with the
  standard error for other traces of the same kind.
- **Violated s**: of the whole autoscaler, the sum; of every other row, the difference to it. Some violations cannot be avoided:
  a downstream that bears less than arrives, an outage of Prometheus while the load grows, a start-up that takes longer than `maxWait`.
- **Worse / better**: traces with more and with fewer violated seconds than the whole autoscaler.
- **Wait**: the 50th and the 99th percentile as a share of `maxWait`, the mean over the traces.
- **Run time**: the median run time over the median that the same tasks have on idle workers; the median and the 90th percentile over the traces.
- **Cut off**: tasks that a drain cut off, and that ran again.

A KEDA here asks the broker every second. Its user has measured run time and CPU per task, and chose green threads and target for each trace; the best
share of `maxWait` and the best scale-down window are picked afterwards, for the whole set.

## The traces

- **tuning**: 200 generated traces, seeds 1 to 200. The autoscaler may be tuned with them.
- **holdout**: 200 generated traces, seeds 1001 to 1200. Nobody tuned on them. They were run twice: for the
  rebuilt autoscaler (294 violated s), and for this page.
- **known**: the 13 traces of `bench/traces`, two seeds each, which tuned the first autoscaler.

A generated trace draws run time (0.05 to 60 s), CPU per task (0.3 to 80 ms), cores (0.1 to 1), start-up (2 to 40 s), prefetch, `maxWait`
(15 to 120 s), one of seven load shapes and up to three events: bursts, outages of Prometheus, other run times and CPU under way, tasks that block the
hub, slow and full downstreams, nodes short of CPU, pods that never start. Its hub is one CPU, first come, first served, so that run times
count the wait for the own core.
"""


def page(stores: dict[tuple[str, float], Store]) -> str:
    """The whole page from the runs of (set, scrape interval)."""
    sections = [
        f"## {name}\n\nPrometheus scrapes every 2 s.\n\n{found}"
        for name in rows.SETS
        if (found := table.section(stores[name, 2.0], name, 2.0))
    ]
    code = f"the code with the digest `{digest(rows.WHOLE)}` (`bench.evidence.store.digest`)"
    parts = [INTRODUCTION, f"The runs are of {code}.\n" if sections else f"No run is of {code} yet.\n", *sections]
    if scrapes := _scrapes(stores):
        parts.append(scrapes)
    if EARLIER.exists():
        parts.append(EARLIER.read_text())
    if DELETED.exists():
        parts.append(_deleted(json.loads(DELETED.read_text())))
    return "\n".join(parts)


def _scrapes(stores: dict[tuple[str, float], Store]) -> str:
    lines = []
    for (name, scrape_seconds), store in stores.items():
        found = table.totals(store, name, scrape_seconds, [rows.WHOLE, rows.LEARNED, *rows.kedas(name)])
        best = table.best_keda(found, name)
        if not best or rows.LEARNED not in found or found[rows.LEARNED].traces != found[best].traces:
            continue
        keda, learned = found[best], found[rows.LEARNED]
        lines.append(
            f"| {name} | {scrape_seconds:g} s | {keda.traces} | {keda.violated_seconds:,} | "
            f"{keda.violated_seconds - keda.violated_difference:,} | {1 / keda.cost_ratio:.3f} | "
            f"{learned.violated_seconds:,} | {learned.cost_ratio / keda.cost_ratio:.3f} | `{best}` |"
        )
    if not lines:
        return ""
    return (
        "## Seldom scrapes\n\nThe whole autoscaler against the best single KEDA, which asks the broker every "
        "second whatever Prometheus does. A new pool knows nothing; a pool that has run before knows run time, CPU per "
        "task and start-up, as KEDA's user does. Cost: worker-seconds over KEDA's.\n\n"
        "| set | scrape | runs | KEDA: violated s | new pool: violated s | cost | ran before: violated s | cost | KEDA "
        "|\n|---|--:|--:|--:|--:|--:|--:|--:|---|\n" + "\n".join(lines) + "\n"
    )


def _deleted(entries: dict[str, dict[str, str]]) -> str:
    lines = [f"| `{name}` | {entry['what']} | {entry['worth']} |" for name, entry in entries.items()]
    return (
        "## Deleted\n\nParts that are gone, with what they had been worth on the tuning traces before.\n\n"
        "| part | what it did | worth |\n|---|---|---|\n" + "\n".join(lines) + "\n"
    )
