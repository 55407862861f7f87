"""What a broker refuses to declare, said in four parts: the queue, the argument, what the broker has and what the app
wants.

RabbitMQ closes the channel with a sentence in English; its form has been the same from 3.6 to 4.x. Standard library
only.
"""

from __future__ import annotations

import re
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
    tries for ever.
    """
    start = consumer.blueprint.start

    def guarded(parent: Any) -> None:
        try:
            start(parent)
        except Exception as error:
            refused = refused_declaration(error)
            if refused is not None:
                exit_misconfigured(refused)
            raise

    consumer.blueprint.start = guarded
