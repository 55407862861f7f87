"""The command line. Sub-commands import what they need themselves, so that `greenfleet crd` does not load kopf."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from greenfleet import __version__
from greenfleet.cli import arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one sub-command and returns its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        if words[:1] == ["simulate"]:
            from greenfleet.simulator.cli import main as simulate  # noqa: PLC0415

            return int(simulate(words[1:]))
        if words[:1] == ["dead-letters"]:
            from greenfleet.cli.dead_letters import main as dead_letters  # noqa: PLC0415

            return dead_letters(words[1:])
        options = _parser().parse_args(words)
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="greenfleet", description="Fleets of Celery workers on the Eventlet pool, scaled by their backlog."
    )
    parser.add_argument("--version", action="version", version=f"greenfleet {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    operator = commands.add_parser("operator", help="run the operator (what the chart's pods do)")
    operator.add_argument("--config", type=Path, help="the administrator's configuration, YAML")
    operator.add_argument("--kubeconfig", help="instead of the pod's service account")
    operator.add_argument(
        "--port", type=arguments.port, default=9541, help="port of metrics and probes (default: %(default)s)"
    )
    operator.set_defaults(run=_operator)

    crd = commands.add_parser("crd", help="print the CustomResourceDefinition")
    crd.set_defaults(run=_crd)

    why = commands.add_parser("why", help="say why a pool has the workers and green threads that it has")
    why.add_argument("pool", type=arguments.object_name, help="the GreenWorkerPool: NAME or NAMESPACE/NAME")
    why.add_argument("-n", "--namespace", help="its namespace (default: the one of the current context)")
    why.add_argument("-o", "--output", choices=("text", "json"), default="text")
    why.add_argument(
        "--history", type=arguments.decisions, default=0, metavar="N", help="also the last N decisions (at most 50)"
    )
    why.add_argument(
        "--operator-namespace", default="greenfleet-system", help="where the operator runs (default: %(default)s)"
    )
    why.set_defaults(run=_why)

    wait = commands.add_parser("wait", help="wait until an operator leads and pools are Ready (what `helm test` does)")
    wait.add_argument(
        "pool",
        nargs="?",
        type=arguments.object_name,
        help="the GreenWorkerPool: NAME or NAMESPACE/NAME (default: all pools that there are)",
    )
    wait.add_argument(
        "-n",
        "--namespace",
        action="append",
        default=[],
        help="where to look for pools, repeatable (default: everywhere; for NAME: the one of the current context)",
    )
    wait.add_argument("--operator-namespace", default="greenfleet-system", help="default: %(default)s")
    wait.add_argument("--timeout", type=arguments.span, default="2m", help="such as 90s (default: %(default)s)")
    wait.add_argument("--kubeconfig", help="instead of the pod's service account")
    wait.set_defaults(run=_wait)

    _add_adopt(commands)
    commands.add_parser(
        "dead-letters", help="look at, requeue or drop the messages that no worker can run", add_help=False
    )

    commands.add_parser(
        "simulate", help="replay a trace against the autoscaler, KEDA and Celery's autoscaler", add_help=False
    )
    return parser


def _add_adopt(commands: Any) -> None:
    adopt = commands.add_parser(
        "adopt",
        help="make a GreenWorkerPool of a Deployment of Celery workers; without --yes it only shows what it would do",
        description="The manifest goes to standard output, everything else to standard error.",
    )
    adopt.add_argument("deployment", type=arguments.object_name, help="the Deployment: NAME or NAMESPACE/NAME")
    adopt.add_argument("-n", "--namespace", help="its namespace (default: the one of the current context)")
    adopt.add_argument("--name", help="name of the pool (default: the Deployment's)")
    adopt.add_argument("--container", help="the container that runs Celery (default: the one whose command does)")
    adopt.add_argument("--app", help="the Celery application, where the command does not say it")
    adopt.add_argument("--queue", action="append", default=[], help="a queue, where the command does not say it")
    adopt.add_argument("--broker-secret", metavar="NAME/KEY", help="the Secret and key with the broker URL")
    adopt.add_argument("--result-secret", metavar="NAME/KEY", help="the Secret and key with the result backend's URL")
    adopt.add_argument(
        "--to-eventlet", action="store_true", help="the Deployment runs another pool, and its tasks fit green threads"
    )
    adopt.add_argument(
        "--drop", action="append", default=[], metavar="NAME", help="leave out what a pool has no place for, by name"
    )
    adopt.add_argument(
        "--yes", action="store_true", help="do it: create the pool, await its workers, retire the old ones"
    )
    adopt.add_argument("--timeout", type=arguments.span, default="5m", help="for each step (default: %(default)s)")
    adopt.set_defaults(run=_adopt)


def _adopt(options: argparse.Namespace) -> int:
    from greenfleet.cli.adopt import run  # noqa: PLC0415

    return run(options)


def _operator(options: argparse.Namespace) -> int:
    import asyncio  # noqa: PLC0415

    from greenfleet import app, settings  # noqa: PLC0415
    from greenfleet.k8s.client import UnusableConfigError  # noqa: PLC0415
    from greenfleet.redaction import redacted  # noqa: PLC0415

    try:
        loaded = settings.load(options.config)
    except settings.SettingsError as error:
        print(f"greenfleet: {redacted(str(error))}", file=sys.stderr)
        return 78  # EX_CONFIG
    app.configure_logging(loaded)
    try:
        asyncio.run(app.run(loaded, app.Identity.from_environment(), kubeconfig=options.kubeconfig, port=options.port))
    except UnusableConfigError as error:
        print(f"greenfleet: {error}", file=sys.stderr)
        return 78
    return 0


def _crd(_: argparse.Namespace) -> int:
    from greenfleet.api.crd import render  # noqa: PLC0415

    print(render(), end="")
    return 0


def _why(options: argparse.Namespace) -> int:
    from greenfleet.cli.why import run  # noqa: PLC0415

    return run(options)


def _wait(options: argparse.Namespace) -> int:
    import asyncio  # noqa: PLC0415

    from greenfleet.cli.wait import Wanted, run  # noqa: PLC0415

    wanted = Wanted(options.pool or "", tuple(options.namespace), options.operator_namespace)
    return asyncio.run(run(wanted, options.timeout, options.kubeconfig))
