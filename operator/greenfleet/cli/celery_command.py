"""What a hand-written container's command says about its Celery worker. Pure.

Celery's own parser cannot be asked: it is in the user's image, and it imports the app. The options are those of
`celery worker --help` of Celery 5.6.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

_SHELLS = frozenset({"sh", "bash", "ash", "dash"})
_SHELL_SYNTAX = re.compile(r"[$`;&|<>*?(){}~]")

_WITH_VALUE = {
    "-A": "app", "--app": "app",
    "-b": "broker", "--broker": "broker",
    "--result-backend": "result_backend",
    "--workdir": "workdir", "-C": "", "--config": "config", "--loader": "loader",
    "-P": "pool", "--pool": "pool",
    "-c": "concurrency", "--concurrency": "concurrency",
    "-Q": "queues", "--queues": "queues",
    "-X": "exclude", "--exclude-queues": "exclude",
    "-n": "hostname", "--hostname": "hostname",
    "--prefetch-multiplier": "prefetch",
    "--soft-time-limit": "soft", "--time-limit": "hard",
    "--max-tasks-per-child": "max_tasks", "--max-memory-per-child": "max_memory",
    "--autoscale": "autoscale",
    "-l": "extra", "--loglevel": "extra", "-O": "extra", "-I": "extra", "--include": "extra",
    "-S": "files", "--statedb": "files", "-f": "files", "--logfile": "files", "--pidfile": "files",
    "-s": "beat", "--schedule": "beat", "--schedule-filename": "beat", "--scheduler": "beat",
    "--uid": "user", "--gid": "user", "--umask": "user", "--executable": "user",
    "--heartbeat-interval": "ours",
}  # fmt: skip
_WITHOUT_VALUE = {
    "-B": "beat", "--beat": "beat",
    "-D": "detach", "--detach": "detach",
    "--purge": "purge", "--discard": "purge",
    "-E": "extra", "--task-events": "extra", "--events": "extra",
    "--without-gossip": "ours", "--without-mingle": "ours", "--without-heartbeat": "ours",
    "-q": "extra", "--quiet": "extra", "--no-color": "extra", "--skip-checks": "extra",
}  # fmt: skip


class UnreadableCommandError(ValueError):
    """The command is not one that can be understood; the text says why."""


class OtherProgramError(UnreadableCommandError):
    """The command runs Celery, and no worker: `program` is beat, flower and so on."""

    def __init__(self, program: str) -> None:
        super().__init__(f"it runs `celery {program}`, which is not a worker")
        self.program = program


@dataclass(frozen=True, slots=True)
class CeleryCommand:
    """A worker's command line, sorted by what becomes of it."""

    python: str = "python3"
    """The interpreter that has Celery."""
    wrapper: tuple[str, ...] = ()
    """What stood before Celery: an init, a tracer."""
    options: dict[str, str] = field(default_factory=dict)
    """The last value of each option that has a counterpart in a pool."""
    extra: tuple[str, ...] = ()
    """Arguments that a pool passes on (`worker.extraArgs`)."""
    dropped: tuple[str, ...] = ()
    """Arguments that a pool does without."""

    @property
    def queues(self) -> list[str]:
        """Queues by name; Celery's own default without any."""
        return [queue.strip() for queue in self.options.get("queues", "celery").split(",") if queue.strip()]

    @property
    def pool(self) -> str:
        """Celery's pool: `prefork` unless the command says otherwise."""
        return self.options.get("pool", "prefork")


def parse(argv: Sequence[str]) -> CeleryCommand:
    """Reads a container's command and args. Raises UnreadableCommandError."""
    words = _unwrapped(list(argv))
    at = next((index for index, word in enumerate(words) if _base(word) == "celery"), None)
    if at is None:
        raise UnreadableCommandError("it does not run celery")
    before, python = words[:at], "python3"
    if before[-1:] == ["-m"]:
        python, before = before[-2], before[:-2]
    elif "/" in words[at]:
        python = str(PurePosixPath(words[at]).with_name("python"))  # a virtual environment has both side by side
    options: dict[str, str] = {}
    extra: list[str] = []
    dropped: list[str] = []
    saw_worker = False
    for name, meaning, value, written in _options(words[at + 1 :]):
        if meaning == "argument":
            if name != "worker" or saw_worker:
                raise OtherProgramError(name)
            saw_worker = True
        elif meaning == "extra":
            extra += written
        elif meaning in ("ours", "files", "user", "hostname"):
            dropped += written
        else:
            options[meaning] = value
    if not saw_worker:
        raise UnreadableCommandError("it does not run `celery worker`")
    return CeleryCommand(python, tuple(before), options, tuple(extra), tuple(dropped))


def _base(word: str) -> str:
    return PurePosixPath(word).name


def _unwrapped(words: list[str]) -> list[str]:
    """Without a shell around it, if the shell only starts one command."""
    if len(words) >= 3 and _base(words[0]) in _SHELLS and re.fullmatch(r"-[a-z]*c", words[1]):
        if _SHELL_SYNTAX.search(words[2]):
            raise UnreadableCommandError("it is a shell script")
        inner = shlex.split(words[2])
        return inner[1:] if inner[:1] == ["exec"] else inner
    return words


def _options(words: list[str]) -> Iterator[tuple[str, str, str, list[str]]]:
    """Name, meaning, value and the words themselves, of each option; plain words mean `argument`."""
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word.startswith("--") and equals and name in _WITH_VALUE:
            yield name, _WITH_VALUE[name], value, [word]
        elif word in _WITH_VALUE:
            value = next(rest, "")
            yield word, _WITH_VALUE[word], value, [word, value]
        elif word in _WITHOUT_VALUE:
            yield word, _WITHOUT_VALUE[word], "true", [word]
        elif re.match(r"-[A-Za-z].", word) and word[:2] in _WITH_VALUE:  # -Qfeeds, -lINFO
            yield word[:2], _WITH_VALUE[word[:2]], word[2:], [word]
        elif word.startswith("-"):
            yield word, "extra", "", [word]
        else:
            yield word, "argument", "", [word]
