"""What is refused before anything starts, and why. Pure: arguments in, errors out. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from greenworker.brokers.parts import OWN_NAMES, url_fields
from greenworker.brokers.url import (
    FIX,
    UNREADABLE,
    check_one_backend,
    check_one_scheme,
    check_options,
    check_tls_options,
    is_readable,
    is_readable_backend,
    unsupported,
    unsupported_scheme,
)
from greenworker.misconfigured import MisconfiguredError

_SHORT_WITH_VALUE = frozenset("AbnSlOcPQXIsf")
_LONG_SYNONYMS = {
    "--events": "-E",
    "--task-events": "-E",
    "--beat": "-B",
    "--detach": "-D",
    "--pool": "-P",
    "--concurrency": "-c",
    "--app": "-A",
    "--queues": "-Q",
    "--exclude-queues": "-X",
    "--broker": "-b",
    "--hostname": "-n",
    "--discard": "--purge",
}
_LONG_FLAGS = frozenset({
    "-E", "-B", "-D", "--no-color", "--quiet", "--version", "--skip-checks", "--purge", "--discard",
    "--disable-prefetch", "--without-gossip", "--without-mingle", "--without-heartbeat",
})  # fmt: skip


_HAS_A_URL = {"-b": "broker", "--result-backend": "resultBackend"}
"""Options that say a URL anew, which may hold a password, and the field that says it."""

_HAS_A_FIELD = {
    "-X": "queues",
    "--prefetch-multiplier": "worker.prefetchMultiplier",
    "--time-limit": "taskTimeLimits.hard",
    "--soft-time-limit": "taskTimeLimits.soft",
    "--uid": "worker.securityContext.runAsUser",
    "--gid": "worker.securityContext.runAsGroup",
}
"""Others that say anew what the resource says, and the field to use."""

_GIVEN = {
    "-A": "app",
    "-Q": "queues",
    "-n": "worker.labels",
    "-P": "prefork.tasks",
    "-c": "greenThreads or prefork.processes",
}
"""Options that the operator gives itself: the last one counts in Celery, so a second one would go around the field."""

_VARIABLES = {
    "CELERY_BROKER_READ_URL": "broker",
    "CELERY_BROKER_WRITE_URL": "broker",
    "CELERY_WORKER_EXCLUDE_QUEUES": "queues",
    "CELERY_WORKER_AUTOSCALE": "greenThreads",
    "CELERY_WORKER_TIME_LIMIT": "taskTimeLimits.hard",
    "CELERY_WORKER_SOFT_TIME_LIMIT": "taskTimeLimits.soft",
    "CELERY_WORKER_MAX_TASKS_PER_CHILD": "recycle.maxTasks",
    "CELERY_WORKER_MAX_MEMORY_PER_CHILD": "recycle.maxMemory",
    "CELERY_WORKER_UID": "worker.securityContext.runAsUser",
    "CELERY_WORKER_GID": "worker.securityContext.runAsGroup",
}
"""Variables that Celery reads as options, or instead of the broker's URL, and the field to use; those that a given
option overrides are left out.
"""

_HAS_A_RULE = "the resource has a field for it, and rules on that field must hold"
_PURGES = "each worker that starts would throw away what waits in its queues"
_DETACHES = "a detached worker ends its container"

_NEVER = {
    "CELERY_WORKER_PURGE": _PURGES,
    "CELERY_WORKER_BEAT": "each worker would run a beat of its own",
    "CELERY_WORKER_DETACH": _DETACHES,
}
"""Other variables that Celery reads as options, which no field says either, and what they would do."""


@dataclass(frozen=True)
class Arguments:
    """Celery's command line, read as far as we need it; the last occurrence of an option counts, as in click."""

    options: Mapping[str, str] = field(default_factory=dict)
    positional: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    """Options that stand there more than once."""

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Arguments:
        """*argv* without the program's own name. Short options may be joined (``-BE``, ``-Peventlet``)."""
        options: dict[str, str] = {}
        positional: list[str] = []
        repeated: list[str] = []
        rest = list(argv)

        def keep(name: str, value: str) -> None:
            if name in options:
                repeated.append(name)
            options[name] = value

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
                keep(name, value)
            elif word.startswith("-") and len(word) > 1:
                letters = word[1:]
                while letters:
                    letter, letters = letters[0], letters[1:]
                    if letter in _SHORT_WITH_VALUE:
                        value = letters or (rest.pop(0) if rest else "")
                        keep(f"-{letter}", value.removeprefix("="))
                        break
                    keep(f"-{letter}", "")
            else:
                positional.append(word)
        return cls(options, tuple(positional), tuple(repeated))


def check(arguments: Arguments, role: str, environ: Mapping[str, str]) -> None:
    """Raise `MisconfiguredError` for the first thing that would break this worker."""
    options = arguments.options
    _check_fields(arguments, environ)
    _check_variables(environ)
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
    _check_urls(environ)
    if environ.get("REMAP_SIGTERM"):
        raise MisconfiguredError(
            "worker.env", f"REMAP_SIGTERM={environ['REMAP_SIGTERM']}",
            "Celery's cold shutdown runs inside the Eventlet hub, breaks it and loses tasks",
            "remove the variable; SIGTERM drains the worker",
        )  # fmt: skip
    if "-D" in options:
        raise MisconfiguredError("worker.extraArgs", "-D", _DETACHES, "remove the option")
    if role == "prefork":
        return
    if "--autoscale" in options:
        raise MisconfiguredError(
            "worker.extraArgs", f"--autoscale={options['--autoscale']}",
            "Celery's autoscaler adds one green thread a second and refuses ours",
            "remove the option; greenThreads.min and greenThreads.max bound the pool",
        )  # fmt: skip
    for option, limit in (("--max-tasks-per-child", "maxTasks"), ("--max-memory-per-child", "maxMemory")):
        if option in options:
            raise MisconfiguredError(
                "worker.extraArgs", f"{option}={options[option]}", "the Eventlet pool has no child processes and "
                                                                   "ignores it",
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


def _check_fields(arguments: Arguments, environ: Mapping[str, str]) -> None:
    """What the resource has a field for is said there alone: rules on its fields must not be gone around."""
    reason = _HAS_A_RULE
    for option, name in _HAS_A_URL.items():
        if option in arguments.options:
            fix = f"remove the option and use {url_fields(name, environ)}"
            raise MisconfiguredError("worker.extraArgs", option, reason, fix)
    for option, name in _HAS_A_FIELD.items():
        if option in arguments.options:
            shown = f"{option} {arguments.options[option]}"
            raise MisconfiguredError("worker.extraArgs", shown, reason, f"remove the option and use {name}")
    for option, name in _GIVEN.items():
        if option in arguments.repeated:
            shown = f"{option} {arguments.options[option]}"
            raise MisconfiguredError("worker.extraArgs", shown, reason, f"remove the option and use {name}")
    more = [word for word in arguments.positional if word != "worker"]
    if "worker" in arguments.positional and more:
        raise MisconfiguredError(
            "worker.extraArgs", more[0].partition("=")[0], "Celery takes NAME=VALUE for a change of the app's "
                                                           "configuration",
            "remove it, and set the field that means it, or configure the app",
        )  # fmt: skip
    if "--purge" in arguments.options:
        raise MisconfiguredError(
            "worker.extraArgs", "--purge", _PURGES,
            "remove the option, and purge by hand (`celery purge`) when you mean it",
        )  # fmt: skip


def _check_variables(environ: Mapping[str, str]) -> None:
    """The same for variables that Celery reads."""
    for variable, name in _VARIABLES.items():
        if environ.get(variable):
            fields = url_fields(name, environ) if name == "broker" else name
            fix = f"remove the variable and use {fields}"
            raise MisconfiguredError("worker.env", variable, f"Celery reads an option from it; {_HAS_A_RULE}", fix)
    for variable, effect in _NEVER.items():
        if environ.get(variable):
            why = f"Celery reads an option from it, and {effect}"
            raise MisconfiguredError("worker.env", variable, why, "remove the variable")
    for ours, variable in OWN_NAMES.items():
        if environ.get(ours) and environ.get(variable, environ[ours]) != environ[ours]:
            fields = url_fields("broker" if ours == "CELERY_BROKER_URL" else "resultBackend", environ)
            raise MisconfiguredError(
                "worker.env", variable, f"Celery's command line takes it for its own option and prefers it to {fields}",
                f"give the variable another name, or the same URL as {fields}",
            )  # fmt: skip


def _check_urls(environ: Mapping[str, str]) -> None:
    if environ.get("CELERY_BROKER_URL") and not is_readable(environ["CELERY_BROKER_URL"]):
        raise MisconfiguredError("broker.urlFrom", "(not shown)", UNREADABLE, FIX)
    scheme = unsupported_scheme(environ.get("CELERY_BROKER_URL", ""))
    if scheme is not None:
        raise unsupported(scheme)
    check_one_scheme(environ.get("CELERY_BROKER_URL", ""))
    check_tls_options(environ.get("CELERY_BROKER_URL", ""), "broker")
    check_options(environ.get("CELERY_BROKER_URL", ""))
    if not is_readable_backend(environ.get("CELERY_RESULT_BACKEND", "")):
        raise MisconfiguredError("resultBackend.urlFrom", "(not shown)", UNREADABLE, FIX)
    check_one_backend(environ.get("CELERY_RESULT_BACKEND", ""))
    check_tls_options(environ.get("CELERY_RESULT_BACKEND", ""), "resultBackend")
