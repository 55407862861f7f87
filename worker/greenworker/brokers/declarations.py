"""What a broker refuses to declare, said in four parts: the queue, the argument, what the broker has and what the app
wants. And what it cannot do for the moment, which is waited for.

RabbitMQ closes the channel with a sentence in English; its form has been the same from 3.6 to 4.x. Standard library
only, but for the worker's log.
"""

from __future__ import annotations

import re
import time
from time import monotonic
from typing import Any

from greenworker.misconfigured import MisconfiguredError, exit_misconfigured

DIFFERENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for (?P<kind>queue|exchange) '(?P<name>[^']*)' in vhost "
    r"'(?P<vhost>[^']*)': "
    r"received (?P<wanted>.+?) but current is (?P<found>.+)",
    re.DOTALL,
)
FORBIDDEN = re.compile(r"access to (?P<kind>queue|exchange) '(?P<name>[^']*)' in vhost '(?P<vhost>[^']*)' refused")
ABSENT = re.compile(r"no (?P<kind>queue|exchange) '(?P<name>[^']*)' in vhost '(?P<vhost>[^']*)'")
LOCKED = re.compile(
    r"cannot obtain exclusive access to locked (?P<kind>queue) '(?P<name>[^']*)' in vhost '(?P<vhost>[^']*)'"
)

ABSENT_FOR_NOW = re.compile(
    r"home node '[^']*' of durable (?P<home>queue '.*' in vhost '.*') is down or inaccessible"
    r"|(?P<stopped>queue '.*' in vhost '.*') process is stopped by supervisor"
    r"|(?P<crashed>queue '.*' in vhost '.*') has crashed and failed to restart"
    r"|failed to perform operation on (?P<late>queue '.*' in vhost '.*') due to timeout"
    r"|failed to perform operation on (?P<moving>queue '.*' in vhost '.*'): its master replica .* may be stopping or "
    r"being demoted",
    re.DOTALL,
)
"""RabbitMQ's ``rabbit_amqqueue:absent/2``: the queue exists, and its process cannot be reached. Each is a 404, as a
queue is that does not exist.
"""

INTERNAL_ERROR = 541
"""AMQP's code for what went wrong inside of the broker: a vhost that is down, a quorum queue without a majority."""

AGAIN_SECONDS = 5.0
"""Between two attempts to consume from a queue that the broker cannot reach. kombu's own attempts to connect are 2 to
30 s apart.
"""

BEAT_SECONDS = 1.0
"""So often during that pause a worker shows that it lives, and looks whether it has to leave: as in kombu's pauses."""


class UnavailableError(ConnectionResetError):
    """The broker has what it was asked for, and cannot reach it: to be handled as a lost connection, which Celery and
    kombu make anew. Without an errno, as `prefork.consumer.without_reconnect` has it.
    """

    def __init__(self, value: str, reason: str, fix: str) -> None:
        super().__init__(f"broker={value!r}: {reason}. {fix}")


def unavailable(code: int, text: str) -> UnavailableError | None:
    """What RabbitMQ says as it closes a channel or a connection, if time or a node that comes back can change it."""
    found = ABSENT_FOR_NOW.search(text)
    if code == 404 and found is not None:
        return UnavailableError(
            str(found[found.lastgroup or 0]), f"RabbitMQ cannot reach it for now: {text.strip()}",
            "It is tried again. Start that node of the broker; a quorum queue outlives the loss of a node",
        )  # fmt: skip
    if code == INTERNAL_ERROR:
        return UnavailableError(
            "RabbitMQ", f"it has failed inside: {text.strip()}", "It is tried again. Look into the broker's own log"
        )
    return None


def refused_declaration(error: BaseException, queue: str = "") -> MisconfiguredError | None:
    """What *error* of a channel says of a declaration; None if it speaks of something else, as of a task that took too
    long. *queue*: the one that was to be declared, where that is known.
    """
    text = str(getattr(error, "reply_text", "") or error)
    code = getattr(error, "reply_code", None) or getattr(error, "code", 0)
    found = DIFFERENT.search(text)
    if code == 406 and found is not None:
        return _different(found)
    found = FORBIDDEN.search(text)
    if code == 403 and found is not None:
        what = f"{found['kind']} {found['name']}"
        return MisconfiguredError(
            "broker", f"vhost {found['vhost']}", f"the broker's user may not use {what}: {text.strip()}",
            f"give the user the rights configure, write and read on {what}, and on what the app binds it to",
        )  # fmt: skip
    found = ABSENT.search(text)
    if code == 404 and found is not None and (not queue or found["name"] == queue):
        what = f"{found['kind']} {found['name']}"
        return MisconfiguredError(
            "app", what, f"there is no {what} in vhost {found['vhost']}, and the app does not declare it (or "
                         "somebody has deleted it meanwhile)",
            "declare it on the broker, or remove no_declare from the app's task_queues",
        )  # fmt: skip
    found = LOCKED.search(text)
    if code == 405 and found is not None:
        return MisconfiguredError(
            "app", f"queue {found['name']}", "another connection has it for itself (exclusive), so that workers "
                                             "cannot share it",
            "remove exclusive from the app's task_queues, or stop the other consumer",
        )  # fmt: skip
    return None


def _different(found: re.Match[str]) -> MisconfiguredError:
    what, argument = f"{found['kind']} {found['name']}", found["argument"]
    wanted, has = _value(found["wanted"]), _value(found["found"])
    return MisconfiguredError(
        "app", f"{what}: {argument}={wanted}",
        f"the {found['kind']} exists in vhost {found['vhost']} with {argument}={has}, and the app declares "
        f"{argument}={wanted}; "
        "RabbitMQ refuses a declaration that differs",
        f"declare {argument}={has} in the app (task_queues, or the setting that it comes from), or let the "
        f"{found['kind']} run empty, delete it on "
        "the broker and have the app declare it anew",
    )  # fmt: skip


def _value(text: str) -> str:
    """Of RabbitMQ's ``the value '10' of type 'signedint'`` the value alone; ``none`` where there is none."""
    quoted = re.search(r"the value '([^']*)'", text)
    if quoted is not None:
        return quoted[1]
    return text.strip().strip("'")


def refuse_declarations(consumer: Any) -> None:
    """Have *consumer* (Celery's) say what the broker refuses to declare, and leave: Celery ends in a traceback, or
    tries for ever. What the broker cannot do for now is said once for each attempt, and Celery connects anew after a
    pause.
    """
    start, waits = consumer.blueprint.start, False

    def guarded(parent: Any) -> None:
        nonlocal waits
        if waits:
            waits = False
            _pause(consumer.runtime)
        try:
            start(parent)
        except UnavailableError as error:
            waits = True
            consumer.runtime.hindrance = str(error)
            _warn(f"Cannot consume: {error} (next attempt in {AGAIN_SECONDS:g} s)")
            raise
        except Exception as error:
            refused = refused_declaration(error)
            if refused is not None:
                exit_misconfigured(refused)
            raise

    consumer.blueprint.start = guarded


def _pause(runtime: Any) -> None:
    """Before the next attempt. The loops of the worker do not run meanwhile."""
    from celery.worker import state  # noqa: PLC0415 - not before patching

    end = monotonic() + AGAIN_SECONDS
    while monotonic() < end:
        state.maybe_shutdown()
        runtime.last_beat = monotonic()
        time.sleep(BEAT_SECONDS)  # green where the worker is


def _warn(text: str) -> None:
    from celery.utils.log import get_logger  # noqa: PLC0415 - not before patching

    get_logger(__name__).warning("%s", text)
