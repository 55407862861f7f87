"""`kubectl greenfleet dead-letters POOL`: what was taken out of a pool's queues because no worker can run it.

The exporter's pod has the broker's URL, so the command runs there, through `kubectl exec` with the user's own rights.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from typing import Any

from greenfleet.cli import arguments
from greenfleet.cli.kubectl import KubectlError, current_namespace, kubectl
from greenfleet.cli.output import complain, say
from greenfleet.manifests import names
from greenfleet.manifests.worker import prefork_queue

MODULE = "greenworker.exporter.dead_letters"


def main(argv: Sequence[str]) -> int:
    """Does it and prints what was done. Exit status 2 for arguments that do not fit, 1 where the pod cannot be asked."""
    # A parser of its own: a sub-command's takes no positional argument after an option that follows the pool's name.
    parser = argparse.ArgumentParser(
        prog="greenfleet dead-letters",
        description="Look at, requeue or drop the messages that no worker can run.",
    )
    parser.add_argument("pool", type=arguments.object_name, help="the GreenWorkerPool: NAME or NAMESPACE/NAME")
    parser.add_argument("action", nargs="?", choices=("list", "show", "requeue", "drop"), default="list")
    parser.add_argument("id", nargs="?", default="", help="the task's id, as list shows it")
    parser.add_argument("--all", action="store_true", help="requeue all of the pool's dead letters")
    parser.add_argument("-n", "--namespace", help="its namespace (default: the one of the current context)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    options = parser.parse_intermixed_args(argv)
    if problem := _misuse(options):
        complain(problem)
        return 2
    try:
        said, pool = arguments.located(options.pool, options.namespace)
        namespace = said or current_namespace()
        found = ask(namespace, pool, options.action, options.id)
        lines = render(options.action, found)
    except (KubectlError, ValueError) as error:
        complain(error)
        return 1
    except (KeyError, TypeError, AttributeError):  # whoever may make pods in that namespace may answer in its place
        complain(
            f"the exporter of {namespace}/{pool} did not answer with dead letters: look at its pod, and update the older of the two"
        )
        return 1
    say(json.dumps(found, indent=2, ensure_ascii=False) if options.output == "json" else "\n".join(lines))
    return 1 if options.id and not found else 0


def _misuse(options: argparse.Namespace) -> str:
    if options.action in ("show", "drop") and not options.id:
        return f"dead-letters {options.action} needs the id of a task: `dead-letters {options.pool}` lists them"
    if options.action == "requeue" and bool(options.id) == options.all:
        return "dead-letters requeue needs the id of one task, or --all: requeue what was repaired"
    if options.all and options.action != "requeue":
        return f"--all is for requeue, not for {options.action}: leave it out"
    return ""


def ask(namespace: str, pool: str, action: str, identity: str) -> list[dict[str, Any]]:
    """What the exporter's pod answers. Raises KubectlError."""
    spec = json.loads(kubectl("get", "greenworkerpool", pool, "-n", namespace, "-o", "json"))["spec"]
    secret = spec["broker"]["urlFrom"]["secretKeyRef"]
    queues = [name for queue in spec["queues"] for name in (queue, prefork_queue(queue))]
    words = [action, *([identity] if identity else [])]
    for queue in queues:
        words.append(f"--queue={queue}")
    deployment = f"deployment/{names.exporter_name(secret['name'], secret['key'])}"
    answer = kubectl(
        "exec", "-n", namespace, deployment, "-c", names.EXPORTER_CONTAINER, "--", "python", "-m", MODULE, *words
    )
    return list(json.loads(answer))


def render(action: str, found: list[dict[str, Any]]) -> list[str]:
    """The answer as lines of text."""
    if action == "show":
        return [f"{name}: {value}" for letter in found for name, value in letter.items()] or ["no such dead letter"]
    if not found:
        return ["no dead letters" if action == "list" else f"nothing to {action}"]
    rows = [("ID", "TASK", "QUEUE", "REASON", "DELIVERIES", "AT")]
    rows += [
        (one["id"], one["task"], one["queue"], one["reason"].split(":")[0], str(one["deliveries"]), _clock(one["at"]))
        for one in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if action != "list":
        lines.insert(0, f"{'requeued' if action == 'requeue' else 'dropped'} {len(found)}:")
    return lines


def _clock(seconds: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")
    except (OverflowError, ValueError, OSError):  # a number that no clock has shown
        return str(seconds)
