"""The command line: `greenfleet`, and `kubectl greenfleet`.

Sub-commands import what they need themselves, so that `greenfleet crd` does not load kopf. Help is typer's, with rich.
An error is one plain sentence on standard error, which a log or a script can search, and never a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from greenfleet import __version__
from greenfleet.cli import arguments
from greenfleet.cli.arguments import Format, Kubeconfig, Namespace, OperatorNamespace, Output, Pool

OPERATOR_NAMESPACE = "greenfleet-system"

cli = typer.Typer(
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"greenfleet {__version__}")
        raise typer.Exit


@cli.callback()
def _fleets(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fleets of Celery workers on the Eventlet pool, scaled by their backlog."""


@cli.command(rich_help_panel="About pools")
def why(
    pool: Pool,
    namespace: Namespace = None,
    output: Format = Output.TEXT,
    history: Annotated[
        int, typer.Option(parser=arguments.decisions, metavar="N", help="Also the last N decisions, at most 50.")
    ] = 0,
    operator_namespace: OperatorNamespace = OPERATOR_NAMESPACE,
) -> int:
    """Say why a pool has the workers and green threads that it has."""
    from greenfleet.cli.why import run  # noqa: PLC0415

    return run(pool, namespace, operator_namespace, as_json=output is Output.JSON, history=history)


@cli.command(rich_help_panel="About pools")
def wait(
    pool: Annotated[
        str | None,
        typer.Argument(
            metavar="POOL",
            parser=arguments.object_name,
            help="The GreenWorkerPool: NAME or NAMESPACE/NAME; without it, all pools that there are.",
            show_default=False,
        ),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            "-n",
            "--namespace",
            help="Where to look for pools, repeatable; without it, everywhere. For one pool: its namespace; "
            "without it, that of the current context.",
        ),
    ] = None,
    operator_namespace: OperatorNamespace = OPERATOR_NAMESPACE,
    timeout: Annotated[
        float,
        typer.Option(
            parser=arguments.span,
            metavar="DURATION",
            show_default="2m",
            help="How long to wait, such as 90s; then it exits with 1 and says what is missing.",
        ),
    ] = 120.0,
    kubeconfig: Kubeconfig = None,
) -> int:
    """Wait until an operator leads and pools are Ready (what `helm test` does)."""
    import asyncio  # noqa: PLC0415

    from greenfleet.cli.wait import Wanted, run  # noqa: PLC0415

    wanted = Wanted(pool or "", tuple(namespace or ()), operator_namespace)
    return asyncio.run(run(wanted, timeout, kubeconfig))


class Action(StrEnum):
    """What to do with dead letters."""

    LIST = "list"
    SHOW = "show"
    REQUEUE = "requeue"
    DROP = "drop"


@cli.command(rich_help_panel="About pools")
def dead_letters(
    pool: Pool,
    action: Annotated[Action, typer.Argument(metavar="ACTION", help="list, show, requeue or drop.")] = Action.LIST,
    identity: Annotated[
        str, typer.Argument(metavar="ID", help="The task's id, as list shows it.", show_default=False)
    ] = "",
    *,
    every: Annotated[bool, typer.Option("--all", help="Requeue all of the pool's dead letters.")] = False,
    namespace: Namespace = None,
    output: Format = Output.TEXT,
) -> int:
    """Look at, requeue or drop the messages that no worker can run."""
    from greenfleet.cli.dead_letters import run  # noqa: PLC0415

    return run(pool, action, identity, namespace, every=every, as_json=output is Output.JSON)


@cli.command(rich_help_panel="About pools")
def adopt(
    deployment: Annotated[
        str,
        typer.Argument(metavar="DEPLOYMENT", parser=arguments.object_name, help="NAME or NAMESPACE/NAME."),
    ],
    *,
    namespace: Namespace = None,
    name: Annotated[str | None, typer.Option(help="Name of the pool; without it, the Deployment's.")] = None,
    container: Annotated[
        str | None, typer.Option(help="The container that runs Celery; without it, the one whose command does.")
    ] = None,
    app: Annotated[str | None, typer.Option(help="The Celery application, where the command does not say it.")] = None,
    queue: Annotated[
        list[str] | None, typer.Option(help="A queue, where the command does not say it; repeatable.")
    ] = None,
    broker_secret: Annotated[
        str | None,
        typer.Option(
            metavar="NAME/KEY",
            parser=arguments.secret_key,
            help="The Secret and key (url, if left out) with the broker URL.",
        ),
    ] = None,
    result_secret: Annotated[
        str | None,
        typer.Option(metavar="NAME/KEY", parser=arguments.secret_key, help="The same for the result backend's URL."),
    ] = None,
    to_eventlet: Annotated[
        bool, typer.Option("--to-eventlet", help="The Deployment runs another pool, and its tasks fit green threads.")
    ] = False,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave out what a pool has no place for, by name; repeatable."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it: create the pool, await its workers, retire the old ones.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(parser=arguments.span, metavar="DURATION", show_default="5m", help="For each step.")
    ] = 300.0,
) -> int:
    """Make a GreenWorkerPool of a Deployment of Celery workers. Without --yes it only shows what it would do.

    The manifest goes to standard output, everything else to standard error.
    """
    from greenfleet.cli.adopt import run  # noqa: PLC0415
    from greenfleet.cli.adoption import Wishes  # noqa: PLC0415

    wishes = Wishes(
        name=name,
        container=container,
        app=app,
        queues=tuple(queue or ()),
        broker_secret=broker_secret,
        result_secret=result_secret,
        to_eventlet=to_eventlet,
        drop=frozenset(drop or ()),
    )
    return run(deployment, namespace, wishes, yes=yes, timeout_seconds=timeout)


@cli.command(rich_help_panel="About Greenfleet itself")
def operator(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The administrator's configuration, YAML.")
    ] = None,
    kubeconfig: Kubeconfig = None,
    port: Annotated[
        int, typer.Option(parser=arguments.port, metavar="PORT", help="Port of metrics and probes.")
    ] = 9541,
) -> int:
    """Run the operator (what the chart's pods do)."""
    import asyncio  # noqa: PLC0415

    from greenfleet import app, settings  # noqa: PLC0415
    from greenfleet.k8s.client import UnusableConfigError  # noqa: PLC0415
    from greenfleet.redaction import redacted  # noqa: PLC0415

    try:
        loaded = settings.load(config)
    except settings.SettingsError as error:
        print(f"greenfleet: {redacted(str(error))}", file=sys.stderr)
        return 78  # EX_CONFIG
    app.configure_logging(loaded)
    try:
        asyncio.run(app.run(loaded, app.Identity.from_environment(), kubeconfig=kubeconfig, port=port))
    except UnusableConfigError as error:
        print(f"greenfleet: {error}", file=sys.stderr)
        return 78
    return 0


@cli.command(rich_help_panel="About Greenfleet itself")
def crd() -> None:
    """Print the CustomResourceDefinition."""
    from greenfleet.api.crd import render  # noqa: PLC0415

    print(render(), end="")


@cli.command(
    rich_help_panel="About Greenfleet itself",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def simulate(context: typer.Context) -> int:
    """Replay a trace against the autoscaler, KEDA and Celery's autoscaler."""
    # A parser of its own: it runs without the operator's libraries too.
    from greenfleet.simulator.cli import main  # noqa: PLC0415

    return main(context.args)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one sub-command and returns its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        return int(cli(args=words, prog_name=_name(), standalone_mode=False) or 0)
    except typer.Exit as left:
        return left.exit_code
    except typer.TyperException as error:
        print(f"greenfleet: {_sentence(error)}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _sentence(error: typer.TyperException) -> str:
    """What is wrong, and where to read what would be right."""
    context = getattr(error, "ctx", None)
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    return f"{error.format_message().rstrip('.')}{hint}"


def _name() -> str:
    """As it was called: kubectl runs a plugin by the name of its file."""
    return "kubectl greenfleet" if Path(sys.argv[0]).name.startswith("kubectl-") else "greenfleet"
