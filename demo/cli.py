"""`python -m demo`: for people and for `make demo`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from demo import pattern, stage, timeline
from demo.api import Api, ApiError
from demo.faults import SHORT, Timing, scale_ins_without_metrics
from demo.live import View
from demo.observer import Observer
from demo.shell import KUBE, REPOSITORY, StepError, Steps, run
from demo.show import Recorder, Show, play
from demo.stage import NAMESPACE, Stage
from demo.summary import Summary, rows, summarize
from greenfleet.api import duration_seconds

OUTPUT = REPOSITORY / "out"
TIMELINE, ACCOUNT, SUMMARY, PICTURE = "timeline.jsonl", "account.json", "summary.json", "demo.png"
INTERRUPTED = 130
PLAIN_WIDTH = 240
"""Columns where there is no terminal: a log should not break its lines."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    try:
        return int(options.command(options, console))
    except (StepError, ApiError) as error:
        console.print("[bold red]The demo cannot go on.[/bold red]")
        console.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted. What runs goes on running; the next `make demo` cleans up what waits.")
        _look_further(console)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo", description="Greenfleet under a real load.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--kubeconfig", type=Path, help="an existing cluster (default: one is started on this machine)")
    where.add_argument("--image-prefix", default="", help="registry and path of the images, for an existing cluster")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--output", type=Path, default=OUTPUT, help="directory for timeline, summary and picture")

    play_it = commands.add_parser("run", parents=[where, output], help="set up everything, run it, tell the result")
    play_it.add_argument("--short", action="store_true", help="a smaller burst, about a minute")
    play_it.add_argument("--faults", action="store_true", help="kill the leader and take Prometheus away in the burst")
    play_it.set_defaults(command=_run)
    commands.add_parser("down", parents=[where], help="remove it").set_defaults(command=_down)
    commands.add_parser("draw", parents=[output], help="draw a recorded run again").set_defaults(command=_draw)
    return parser


def _run(options: argparse.Namespace, console: Console) -> int:
    began = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    steps = Steps(console, 5 if options.kubeconfig else 6)
    place, revisions = _stage(options, steps, console)
    api = Api(place.kubeconfig)
    with steps.step(
        "install the operator with its Prometheus, Redis, the feed server and the producer", "20 to 60 s, later 5 s"
    ):
        stage.install_charts(place, api, revisions)
    with steps.step("apply examples/feedhub.yaml and wait until it is Ready", "5 to 15 s"):
        pool = stage.apply_pool(place, api, scaling=pattern.SHORT_SCALING if options.short else {})
        name = pool["metadata"]["name"]
        stage.await_ready(api, name)
        stage.clear(api, name)
    phases = pattern.short() if options.short else pattern.full()
    timing = (SHORT if options.short else Timing()) if options.faults else None
    show = Show(run=f"run-{int(time.time())}", phases=phases, pool=name, faults=timing)
    objective = duration_seconds(pool["spec"]["scaling"]["maxWait"])
    with steps.step(
        f"{pattern.total(phases):,} feeds, from zero workers to zero", "70 s" if options.short else "2 to 3 min"
    ):
        summary = _play(show, api, options.output, console, objective)
    with steps.step("draw the picture", "3 s"):
        _picture(options.output, objective, summary)
    _tell(summary, options.output, console, time.monotonic() - began)
    return 0 if summary.good else 1


def _stage(options: argparse.Namespace, steps: Steps, console: Console) -> tuple[Stage, dict[str, str]]:
    if options.kubeconfig:
        with steps.step("use the given cluster", "1 s"):
            return stage.given(options.kubeconfig, options.image_prefix), {}
    with steps.step("start Kubernetes on this machine", "15 min the first time (it is compiled), later 5 to 15 s"):
        place = stage.local()
    with steps.step("build the images and load them", "5 min the first time, later 5 s"):
        revisions = stage.build_images(lambda name: console.print(f"      {name}", style="dim"))
    return place, revisions


def _play(show: Show, api: Api, output: Path, console: Console, objective: float) -> Summary:
    observer = Observer(api, namespace=NAMESPACE, pool=show.pool)
    recorder = Recorder(output / TIMELINE)
    titles = {phase.name: phase.title for phase in show.phases}
    try:
        with View(console, titles=titles, objective_seconds=objective).running() as view:
            error = play(show, api, observer, recorder, view)
    finally:
        recorder.close()
    told = observer.account()
    wrong = scale_ins_without_metrics(recorder.timeline)
    if wrong and not error:
        error = f"scaled in while metrics were missing: {wrong[0][1]} to {wrong[0][2]} workers"
    (output / ACCOUNT).write_text(json.dumps(told), encoding="utf-8")
    summary = summarize(recorder.timeline, told, objective_seconds=objective, error=error)
    (output / SUMMARY).write_text(json.dumps(asdict(summary), indent=2) + "\n", encoding="utf-8")
    return summary


def _picture(output: Path, objective: float, summary: Summary | None) -> None:
    from demo.picture import draw  # noqa: PLC0415 - matplotlib takes a second to import; not for `down`

    told: dict[str, Any] = json.loads((output / ACCOUNT).read_text(encoding="utf-8"))
    recorded = timeline.read(output / TIMELINE)
    draw(recorded, output / PICTURE, objective_seconds=objective, waits=told["waits"], summary=summary)


def _tell(summary: Summary, output: Path, console: Console, elapsed_seconds: float) -> None:
    table = Table.grid(padding=(0, 3))
    for label, value in rows(summary):
        table.add_row(label, value)
    table.add_row("whole demo", f"{elapsed_seconds:.0f} s")
    table.add_row("picture", str(output / PICTURE))
    good = summary.good
    title = "nothing was lost" if good else "; ".join(summary.failures)
    console.print(Panel(table, title=title, border_style="green" if good else "red", expand=False, padding=(1, 3)))
    _look_further(console)


def _look_further(console: Console) -> None:
    console.print(
        "The cluster stays up. To look further:\n"
        '  eval "$(cluster/kube env)"                       kubectl and helm for it\n'
        "  kubectl -n demo get greenworkerpools,pods -o wide\n"
        "  kubectl -n demo describe greenworkerpool feedhub  conditions and Events\n"
        "  make demo-down                                    removes everything",
        markup=False,
    )


def _down(options: argparse.Namespace, console: Console) -> int:
    if options.kubeconfig:
        stage.remove(stage.given(options.kubeconfig, options.image_prefix), Api(options.kubeconfig))
        console.print(
            f"The demo is removed from the cluster of {options.kubeconfig}. The CustomResourceDefinition stays."
        )
        return 0
    run([KUBE, "down"], visible=True)
    return 0


def _draw(options: argparse.Namespace, console: Console) -> int:
    stored = json.loads((options.output / SUMMARY).read_text(encoding="utf-8"))
    stored["failures"] = tuple(stored["failures"])
    summary = Summary(**stored)
    _picture(options.output, summary.objective_seconds, summary)
    console.print(str(options.output / PICTURE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
