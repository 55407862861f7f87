"""What is refused before anything starts, and why. Pure: arguments in, errors out. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from greenworker.broker_url import FIX, UNREADABLE, is_readable
from greenworker.fatal import MisconfiguredError

_SHORT_WITH_VALUE = frozenset("AbnSlOcPQXIsf")
_LONG_SYNONYMS = {
    "--events": "-E", "--task-events": "-E", "--beat": "-B", "--detach": "-D", "--pool": "-P", "--concurrency": "-c",
    "--app": "-A", "--queues": "-Q",
}  # fmt: skip
_LONG_FLAGS = frozenset({
    "-E", "-B", "-D", "--no-color", "--quiet", "--version", "--skip-checks", "--purge", "--discard",
    "--disable-prefetch", "--without-gossip", "--without-mingle", "--without-heartbeat",
})  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """Celery's command line, read as far as we need it; the last occurrence of an option counts, as in click."""

    options: Mapping[str, str] = field(default_factory=dict)
    positional: tuple[str, ...] = ()

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Arguments:
        """*argv* without the program's own name. Short options may be joined (``-BE``, ``-Peventlet``)."""
        options: dict[str, str] = {}
        positional: list[str] = []
        rest = list(argv)
        while rest:
            word = rest.pop(0)
            if word == "--":
                positional += rest
                break
            if word.startswith("--"):
                name, has_value, value = word.partition("=")
                name = _LONG_SYNONYMS.get(name, name)
                if not has_value and name not in _LONG_FLAGS and rest:
                    value = rest.pop(0)
                options[name] = value
            elif word.startswith("-") and len(word) > 1:
                letters = word[1:]
                while letters:
                    letter, letters = letters[0], letters[1:]
                    if letter in _SHORT_WITH_VALUE:
                        value = letters or (rest.pop(0) if rest else "")
                        options[f"-{letter}"] = value.removeprefix("=")
                        break
                    options[f"-{letter}"] = ""
            else:
                positional.append(word)
        return cls(options, tuple(positional))


def check(arguments: Arguments, role: str, environ: Mapping[str, str]) -> None:
    """Raise `MisconfiguredError` for the first thing that would break this worker."""
    options = arguments.options
    expected = "prefork" if role == "prefork" else "eventlet"
    if "worker" not in arguments.positional:
        raise MisconfiguredError(
            "command", " ".join(arguments.positional), "this launcher starts Celery workers only", "use … worker …"
        )
    if options.get("-P", "prefork" if role == "prefork" else "") != expected:
        raise MisconfiguredError(
            "worker.extraArgs", f"-P {options.get('-P', '')}",
            f"a worker of role {role} runs the {expected} pool, and Celery patches only if the option is given",
            f"use -P {expected}",
        )  # fmt: skip
    if environ.get("CELERY_BROKER_URL") and not is_readable(environ["CELERY_BROKER_URL"]):
        raise MisconfiguredError("broker.secretRef", "(not shown)", UNREADABLE, FIX)
    if environ.get("REMAP_SIGTERM"):
        raise MisconfiguredError(
            "worker.env", f"REMAP_SIGTERM={environ['REMAP_SIGTERM']}",
            "Celery's cold shutdown runs inside the Eventlet hub, breaks it and loses tasks",
            "remove the variable; SIGTERM drains the worker",
        )  # fmt: skip
    if "-D" in options:
        raise MisconfiguredError("worker.extraArgs", "-D", "a detached worker ends its container", "remove the option")
    if role == "prefork":
        return
    if "-E" in options:
        raise MisconfiguredError(
            "worker.extraArgs", "-E",
            "task events halve an Eventlet worker's throughput (17 tasks a second on AMQP in Celery 5.7)",
            "remove the option and use the metrics on port 9540, which need no events",
        )  # fmt: skip
    if "--autoscale" in options:
        raise MisconfiguredError(
            "worker.extraArgs", f"--autoscale={options['--autoscale']}",
            "Celery's autoscaler adds one green thread a second and refuses ours",
            "remove the option; greenThreads.min and greenThreads.max bound the pool",
        )  # fmt: skip
    for option, limit in (("--max-tasks-per-child", "maxTasks"), ("--max-memory-per-child", "maxMemory")):
        if option in options:
            raise MisconfiguredError(
                "worker.extraArgs", f"{option}={options[option]}", "the Eventlet pool has no child processes and ignores it",
                f"remove the option and use recycle.{limit}",
            )  # fmt: skip
    if "-B" in options:
        raise MisconfiguredError(
            "worker.extraArgs", "-B", "green pools cannot embed beat, and each worker would run its own",
            "run `celery beat` as a Deployment with one replica",
        )  # fmt: skip
    if "-c" in options:
        raise MisconfiguredError(
            "worker.extraArgs", f"-c {options['-c']}", "the operator sets the number of green threads",
            "remove the option; greenThreads.min, max and start say how many",
        )  # fmt: skip


def check_hub(blocking_detection: bool) -> None:
    """Once the app is imported: refuse what it switched on in the hub itself."""
    if blocking_detection:
        raise MisconfiguredError(
            "app", "eventlet.debug.hub_blocking_detection(True)",
            "it raises into whatever task runs when the hub was blocked, so that tasks fail and acknowledgements can break",
            "remove the call; blocking.warnAfter names the task that blocks, and only looks",
        )  # fmt: skip
