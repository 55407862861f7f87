"""`python -m bench.scaling`: the autoscalers side by side on this machine's cluster.

The last line is one JSON object. Each trace takes about three minutes and is kept in `out/bench-scaling`; what is there
already is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import mean

from bench.scaling import live, picture, reality, record, report, tuning
from bench.scaling.figures import Figures, figures, longest_gap
from bench.scaling.fleets import OURS, Fleet, fleets
from bench.scaling.optimum import fewest_worker_seconds
from demo import stage
from demo.api import Api, ApiError
from demo.shell import KUBE, REPOSITORY, StepError, run
from greenfleet.simulator.traces import Trace, load

TRACES = Path(__file__).parent / "traces"
OUTPUT = REPOSITORY / "out" / "bench-scaling"
PASSES = ((report.OURS, report.SINGLE, report.TUNED), (report.DEFAULT, report.FIXED))
"""Who runs side by side. 25 workers of a tenth of a core are more than two cores bear next to the control plane: then
pods take half a minute to be Ready, in the traces with the most work and for the autoscaler that is the last to ask.
"""
LABELS = tuple(label for labels in PASSES for label in labels)
MISSING_SECONDS = 15.0
"""An observer that is kept from looking for longer has not seen a trace of two minutes."""


def main() -> int:
    """Run what is missing, then tell."""
    options = _parser().parse_args()
    try:
        traces = _traces(options.traces)
        if options.tune:
            tuning.save(tuning.tune(list(_traces("all").values())))
        todo = [] if options.report else [each for trace in traces.values() for each in _todo(trace, options)]
        if todo:
            _run(todo, options)
    except (StepError, ApiError) as error:
        print(f"The bench cannot go on: {error}", file=sys.stderr)
        return 1
    _tell({name: trace for name, trace in traces.items() if _done(trace, options.output)}, options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--traces", default="all", help="names in bench/scaling/traces, comma separated, or `all`")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the records are kept")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the arrivals and of what chance decides about each task"
    )
    parser.add_argument("--again", action="store_true", help="run the traces even if there are records of them")
    parser.add_argument("--autoscalers", default="all", help=f"which to run, comma separated: of {', '.join(LABELS)}")
    parser.add_argument("--tune", action="store_true", help="choose KEDA's configurations anew with the simulator")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/scaling-bench.md too")
    parser.add_argument("--keep", action="store_true", help="leave KEDA and the namespaces in the cluster")
    parser.add_argument("--pictures", type=Path, help="directory for the pictures (default: the output)")
    return parser


def _traces(names: str) -> dict[str, Trace]:
    known = {path.stem: path for path in sorted(TRACES.glob("*.json"))}
    return {name: load(known[name]) for name in _chosen("--traces", names, known)}


def _chosen(option: str, names: str, known: Iterable[str]) -> list[str]:
    """What an option with `all` or comma separated names chooses. Raises StepError for a name that nothing has."""
    if names == "all":
        return list(known)
    chosen = [name for name in names.split(",") if name]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise StepError(f"{option} names {(unknown or [''])[0]!r}, which does not exist; there are: {', '.join(known)}")
    return chosen


def _autoscalers(trace: Trace) -> dict[str, str]:
    tuned = tuning.load()
    autoscalers = {
        report.OURS: OURS,
        report.DEFAULT: "keda-default",
        report.SINGLE: tuned.single,
        report.TUNED: tuned.traces[trace.name],
    }
    return {**autoscalers, report.FIXED: tuned.fixed} if trace.changes else autoscalers


def _path(output: Path, trace: str, label: str) -> Path:
    return output / f"{trace}.{label}.json"


def _done(trace: Trace, output: Path) -> bool:
    return all(_path(output, trace.name, label).exists() for label in _autoscalers(trace))


def _todo(trace: Trace, options: argparse.Namespace) -> list[tuple[Trace, list[Fleet]]]:
    """The passes that are wanted and not there, each with its fleets."""
    every = fleets(_autoscalers(trace))
    wanted = _chosen("--autoscalers", options.autoscalers, LABELS)
    found = []
    for labels in PASSES:
        sides = [each for each in every if each.label in labels and each.label in wanted]
        there = all(_path(options.output, trace.name, each.label).exists() for each in sides)
        if sides and (options.again or not there):
            found.append((trace, sides))
    return found


def _run(todo: list[tuple[Trace, list[Fleet]]], options: argparse.Namespace) -> None:
    # The producer and the observer have to be on time also where the workers take all cores.
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    place = stage.local()
    run([KUBE, "keda", "up"], visible=True)
    api = Api(place.kubeconfig)
    stage.install_charts(place, api, stage.build_images(lambda name: None))
    cluster = live.Cluster(api, place.kubeconfig.parent / "logs")
    every = {each.label: each for _, sides in todo for each in sides}
    try:
        for trace, sides in todo:
            print(f"{time.strftime('%H:%M:%S')} {trace.name}: {trace.about}", flush=True)
            records = live.play(cluster, sides, trace, options.seed, lambda text: print(f"  {text}", flush=True))
            for one in records:
                record.write(one, _path(options.output, trace.name, one.label))
    finally:
        if options.keep:
            live.clear(cluster, list(every.values()))
        else:
            live.remove(cluster, list(every.values()))
            run([KUBE, "keda", "down"])


def _tell(traces: dict[str, Trace], options: argparse.Namespace) -> None:
    records = {
        name: [record.read(_path(options.output, name, label)) for label in _autoscalers(trace)]
        for name, trace in traces.items()
    }
    results: dict[str, dict[str, tuple[str, Figures]]] = {
        name: {one.label: (one.autoscaler, figures(one, traces[name])) for one in runs}
        for name, runs in records.items()
    }
    print(report.table(results))
    for name, each in records.items():
        gap = max(map(longest_gap, each), default=0.0)
        if gap > MISSING_SECONDS:
            print(
                f"{name}: the observer saw nothing for {gap:.0f} s; its worker-seconds are worth little, run it again"
            )
    if not records:
        print(json.dumps({"traces": {}}))
        return
    runs = {
        name: [(one, reality.simulated(one, traces[name], options.seed)) for one in each]
        for name, each in records.items()
    }
    agreements = {name: {one.label: reality.agreement(one, run) for one, run in pairs} for name, pairs in runs.items()}
    print(_agreement_table(agreements))
    optima = {
        name: fewest_worker_seconds(_fastest(traces[name], runs), [task.published for task in runs[0].tasks])
        for name, runs in records.items()
    }
    if options.markdown:
        print(report.markdown(results, optima))
    target = options.pictures or options.output
    picture.draw(records, traces, target / "scaling-bench.png")
    reality.draw([pairs[0] for pairs in runs.values()], target / "scaling-reality.png")
    print(f"pictures: {target / 'scaling-bench.png'}, {target / 'scaling-reality.png'}")
    result = report.comparison(results, optima)
    every = [one for each in agreements.values() for one in each.values()]
    result["simulator"] = {
        "workers_error": round(mean(one.workers for one in every), 2),
        "backlog_error": round(mean(one.backlog for one in every), 3),
        "worker_seconds_ratio": round(mean(one.worker_seconds for one in every), 2),
    }
    print(json.dumps(result))


def _fastest(trace: Trace, runs: list[record.Record]) -> Trace:
    """The trace with pods that all start as fast as the fastest that any autoscaler had: nobody should beat the optimum
    by his start-ups.
    """
    seconds = min((startup for run in runs for startup in run.startups), default=trace.startup[0])
    return replace(trace, startup=(seconds, seconds))


def _agreement_table(agreements: dict[str, dict[str, reality.Agreement]]) -> str:
    lines = [
        "",
        "the simulator against the cluster: mean error of Ready workers, of the backlog (of its peak), worker-seconds",
    ]
    for name, autoscalers in agreements.items():
        cells = "   ".join(
            f"{label} {one.workers:.2f} {one.backlog * 100:3.0f} % {one.worker_seconds:.2f}×"
            for label, one in autoscalers.items()
        )
        lines.append(f"{name:16} {cells}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
