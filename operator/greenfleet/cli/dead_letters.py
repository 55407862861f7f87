"""`kubectl greenfleet dead-letters POOL`: what was taken out of a pool's queues because no worker can run it.

The exporter's pod has the broker's URL, so the command runs there, through `kubectl exec` with the user's own rights.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

from greenfleet.api.pool import URL_PARTS, Broker
from greenfleet.cli.arguments import located
from greenfleet.cli.kubectl import KubectlError, current_namespace, kubectl, kubectl_json
from greenfleet.cli.output import complain, say
from greenfleet.manifests import names
from greenfleet.manifests.worker import prefork_queue

MODULE = "greenworker.exporter.dead_letters"


def run(pool: str, action: str, identity: str, namespace: str | None, *, every: bool, as_json: bool) -> int:
    """Does it and prints what was done. Exit status 2 for arguments that do not fit, 1 where the pod cannot be
    asked.
    """
    if problem := _misuse(pool, action, identity, every=every):
        complain(problem)
        return 2
    try:
        said, name = located(pool, namespace)
        place = said or current_namespace()
        found = ask(place, name, action, identity)
        lines = render(action, found)
    except (KubectlError, ValueError) as error:
        complain(error)
        return 1
    except (KeyError, TypeError, AttributeError):  # whoever may make pods in that namespace may answer in its place
        complain(
            f"the exporter of {place}/{name} did not answer with dead letters: look at its pod, and update the "
            "older of the two"
        )
        return 1
    say(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))
    return 1 if identity and not found else 0


def _misuse(pool: str, action: str, identity: str, *, every: bool) -> str:
    if action in ("show", "drop") and not identity:
        return f"dead-letters {action} needs the id of a task: `dead-letters {pool}` lists them"
    if action == "requeue" and bool(identity) == every:
        return "dead-letters requeue needs the id of one task, or --all: requeue what was repaired"
    if every and action != "requeue":
        return f"--all is for requeue, not for {action}: leave it out"
    return ""


def ask(namespace: str, pool: str, action: str, identity: str) -> list[dict[str, Any]]:
    """What the exporter's pod answers. Raises KubectlError."""
    spec = kubectl_json("get", "greenworkerpool", pool, "-n", namespace, "-o", "json")["spec"]
    broker = Broker.model_validate({name: spec["broker"].get(name) for name in ("urlFrom", *URL_PARTS)})
    queues = [name for queue in spec["queues"] for name in (queue, prefork_queue(queue))]
    words = [action, *([identity] if identity else [])]
    for queue in queues:
        words.append(f"--queue={queue}")
    deployment = f"deployment/{names.exporter_name(broker.identity)}"
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
