"""``python -m greenworker.exporter.dead_letters list --queue feeds``: dead letters of the exporter's broker, for
people.

Runs beside the exporter, which has the broker's URL. Answers are JSON on standard output; what went wrong is one line
on standard error, without credentials, and exit status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from greenworker.brokers.dead_letters import DeadLetter
from greenworker.exporter.broker import Queue
from greenworker.exporter.connect import connect
from greenworker.exporter.exporter import Options, parse_queues
from greenworker.redaction import redacted

TEXT_LIMIT_BYTES = 4096
"""Of a message that `show` prints."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 with one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m greenworker.exporter.dead_letters")
    parser.add_argument("action", choices=("list", "show", "requeue", "drop"))
    parser.add_argument("id", nargs="?", default="", help="of the task; every one's if it is left out (list, requeue)")
    parser.add_argument("--queue", action="append", default=[], required=True)
    options = parser.parse_args(argv)
    if options.action in ("show", "drop") and not options.id:
        parser.error(f"{options.action} needs the id of a task: `list` shows them")
    try:
        found = run(options.action, options.id, options.queue, os.environ)
    except Exception as error:
        sys.stderr.write(redacted(f"{type(error).__name__}: {error}") + "\n")
        return 1
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def run(action: str, identity: str, wanted: Sequence[str], environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """Do it for the *wanted* queues; the dead letters that were listed, shown, requeued or dropped."""
    options = Options.read(environ)
    queues = options.queues
    if queues is None:
        queues = parse_queues(options.queues_file.read_text() if options.queues_file.exists() else "[]")
    known = {queue.name: queue for queue in queues}
    found: list[dict[str, Any]] = []
    with closing(connect(options.url(), options.trust)) as broker:
        for name in wanted:
            letters = broker.dead_letters(known.get(name) or Queue(name))
            if action in ("requeue", "drop"):
                found += [letter.shown() for letter in letters.take(identity, requeue=action == "requeue")]
            else:
                some = [letter for letter in letters.each() if not identity or letter.id == identity]
                found += [shown(letter) if action == "show" else letter.shown() for letter in some]
    return found


def shown(letter: DeadLetter) -> dict[str, Any]:
    """With the beginning of its message."""
    return {**letter.shown(), "message": letter.payload[:TEXT_LIMIT_BYTES].decode(errors="replace")}


if __name__ == "__main__":
    sys.exit(main())
