"""The command line of the simulator: `python -m greenfleet.simulator`, and `greenfleet simulate`.

The table goes to standard output, and its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from greenfleet.autoscaling import PARTS

from .autoscalers import AUTOSCALERS, Autoscaler, autoscaler_named, keda_grid, without
from .generator import HOLDOUT_SEEDS, TUNING_SEEDS, generate
from .plot import draw
from .report import averaged, comparison, table, totals_table
from .run import Run, simulate
from .totals import outcome, total
from .traces import Trace, load, scaled

GENERATED = {"tuning": TUNING_SEEDS, "holdout": HOLDOUT_SEEDS}
MIN_SCRAPE_SECONDS, MAX_SCRAPE_SECONDS = 1.0, 120.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the traces under the autoscalers; 0, or 2 where an argument makes no sense."""
    arguments = _parser().parse_args(argv)
    try:
        _check(arguments)
        traces = [scaled(trace, arguments.scale) for trace in _traces(arguments)]
        autoscalers = [autoscaler.name for autoscaler in _autoscalers(arguments)]
    except (KeyError, TypeError) as error:
        sys.stderr.write(
            f"greenfleet simulate: --trace {arguments.trace} is no trace ({error}): compare it with bench/traces\n"
        )
        return 2
    except (ValueError, OSError) as error:
        sys.stderr.write(f"greenfleet simulate: {error}\n")
        return 2
    runs = _run(traces, autoscalers, arguments)
    averages = averaged(runs)
    result: dict[str, object] = {"seeds": arguments.seeds, "traces": averages}
    theirs = [
        autoscaler for autoscaler in autoscalers if autoscaler.startswith("keda-") and autoscaler != "keda-default"
    ]
    if "greenfleet" in autoscalers and theirs:
        result["comparison"] = comparison(averages, "greenfleet", theirs)
    if arguments.set:
        result["totals"] = totals = _totals(runs, autoscalers)
        sys.stdout.write(totals_table(totals) + "\n")
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    if arguments.plot:
        draw([run for run in runs if run.seed == arguments.seed], arguments.plot)
    sys.stdout.write(table(averages) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raises ValueError for an argument that makes no sense."""
    if not arguments.trace.strip(","):
        raise ValueError("--trace is empty: name a trace, or `all`")
    for part in arguments.without:
        if part not in PARTS:
            raise ValueError(
                f"--without is {part!r}, and the autoscaler has no such part: choose from {', '.join(PARTS)}"
            )
    if not MIN_SCRAPE_SECONDS <= arguments.scrape <= MAX_SCRAPE_SECONDS:
        raise ValueError(
            f"--scrape is {arguments.scrape:g} s, not between {MIN_SCRAPE_SECONDS:g} and {MAX_SCRAPE_SECONDS:g}: "
            "choose a number between"
        )
    if arguments.set and arguments.plot:
        raise ValueError("--plot is for single traces, and --set is many: leave one of the two out")
    if arguments.seeds < 1 or arguments.jobs < 1:
        raise ValueError(f"--seeds is {arguments.seeds} and --jobs {arguments.jobs}, and both count from 1: raise them")
    if not 0 < arguments.scale <= 1000:
        raise ValueError(f"--scale is {arguments.scale:g}, not above 0 and up to 1000: choose a number between")
    if arguments.plot and not arguments.plot.absolute().parent.is_dir():
        raise ValueError(f"--plot is {arguments.plot}, and there is no such directory: make it first")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="greenfleet simulate",
        description="Simulate a fleet of Eventlet workers under Greenfleet's autoscaler, KEDA with HPA, or Celery's "
        "--autoscale.",
    )
    parser.add_argument(
        "--set",
        choices=("tuning", "holdout", "known"),
        help="instead of --trace, many traces and one line for each autoscaler: 200 generated ones to tune with, 200 "
        "to judge with, or all files",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="PART",
        help="also run Greenfleet with this part switched off; several times: with all of them off. Parts: "
        f"{', '.join(PARTS)}",
    )
    parser.add_argument(
        "--scrape", type=float, default=2.0, metavar="SECONDS", help="Prometheus' interval (default: %(default)g)"
    )
    parser.add_argument(
        "--trace", default="burst", help="names in the traces directory or files, comma separated, or `all`"
    )
    parser.add_argument(
        "--autoscaler",
        default="",
        help=f"comma separated: {', '.join(AUTOSCALERS)}, keda-THREADS-TARGET-WINDOW, keda-fitted-PERCENT-WINDOW, or "
        "keda-grid",
    )
    parser.add_argument("--seed", type=int, default=1, help="first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to average over")
    parser.add_argument("--scale", type=float, default=1.0, help="a fleet and a load so many times as large")
    parser.add_argument("--traces", type=Path, default=Path("bench/traces"), help="directory of the trace files")
    parser.add_argument("--plot", type=Path, help="write a picture of the first seed to this file (needs matplotlib)")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    return parser


def _traces(arguments: argparse.Namespace) -> list[Trace]:
    if arguments.set in GENERATED:
        return [generate(seed) for seed in GENERATED[arguments.set]]
    return [
        _trace(name, arguments.traces) for name in _names("all" if arguments.set else arguments.trace, arguments.traces)
    ]


def _names(text: str, directory: Path) -> list[str]:
    if text == "all":
        return _known(directory)
    return [name for name in text.split(",") if name]


def _trace(name: str, directory: Path) -> Trace:
    path = Path(name) if name.endswith(".json") else directory / f"{name}.json"
    if not path.is_file():
        known = ", ".join(_known(directory))
        raise ValueError(f"trace {name!r} does not exist: choose from {known}, or name a file (FILE.json)")
    return load(path)


def _known(directory: Path) -> list[str]:
    """Names of the traces that are there. Raises ValueError where there are none."""
    found = sorted(path.stem for path in directory.glob("*.json"))
    if not found:
        raise ValueError(
            f"--traces is {directory}, and it holds no traces: they come with the source, so run this in a clone of "
            "the repository, or name a directory with --traces or a file with --trace FILE.json"
        )
    return found


def _autoscalers(arguments: argparse.Namespace) -> list[Autoscaler]:
    text = arguments.autoscaler or (
        "greenfleet,formula,keda-fitted-30-60" if arguments.set else "greenfleet,keda-default,keda-tuned"
    )
    names = text.split(",")
    autoscalers = [
        autoscaler
        for name in names
        for autoscaler in (keda_grid() if name == "keda-grid" else [autoscaler_named(name)])
    ]
    return [*autoscalers, without(arguments.without)] if arguments.without else autoscalers


def _run(traces: list[Trace], autoscalers: list[str], arguments: argparse.Namespace) -> list[Run]:
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    work = [
        (trace, autoscaler, seed, arguments.scrape) for trace in traces for autoscaler in autoscalers for seed in seeds
    ]
    if arguments.jobs <= 1:
        return list(_one_by_one(work))
    with ProcessPoolExecutor(arguments.jobs) as pool:
        return list(pool.map(_one, work, chunksize=4))


def _one_by_one(work: list[tuple[Trace, str, int, float]]) -> Iterator[Run]:
    for item in work:
        yield _one(item)


def _one(item: tuple[Trace, str, int, float]) -> Run:
    trace, autoscaler, seed, scrape_seconds = item
    return simulate(trace, autoscaler_named(autoscaler), seed, scrape_seconds)


def _totals(runs: Sequence[Run], autoscalers: list[str]) -> dict[str, dict[str, float]]:
    outcomes = {
        autoscaler: {(run.trace.name, run.seed): outcome(run) for run in runs if run.autoscaler == autoscaler}
        for autoscaler in autoscalers
    }
    reference = outcomes["greenfleet" if "greenfleet" in outcomes else autoscalers[0]]
    return {autoscaler: asdict(total(found, reference)) for autoscaler, found in outcomes.items()}
