"""kombu's options for Redis (``broker_transport_options``): what we add to those of the app, and what we refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenworker.environment import Environment
from greenworker.misconfigured import MisconfiguredError

CONNECTIONS = 10_000
"""kombu's pools refuse the eleventh connection by default, and acknowledgements fail with it. The number is only a
ceiling: ours go over one connection.
"""

TIMES: dict[str, Any] = {"socket_timeout": 15.0, "socket_connect_timeout": 5.0, "socket_keepalive": True}
"""Seconds. kombu waits for ever: a connection to a Redis whose node or pod is gone without a FIN would hold the worker
until TCP itself gives up, which takes a quarter of an hour. None of our commands blocks, so an answer that late will
not come.
"""


def merge_options(app: Any, environment: Environment, master_name: str) -> None:
    """After the app is loaded. The app's own options win, except for what the resource says about keys."""
    check_layout(app.conf.broker_transport_options or {}, environment)
    options: dict[str, Any] = {
        "max_connections": CONNECTIONS,
        "unacked_restore_throttle": 1,
        **TIMES,
        **({"master_name": master_name} if master_name else {}),
        **(app.conf.broker_transport_options or {}),
    }
    if environment.key_prefix:
        options["global_keyprefix"] = environment.key_prefix
    if environment.priority_steps:
        options["priority_steps"] = list(environment.priority_steps)
    app.conf.broker_transport_options = options


def check_layout(options: Mapping[str, Any], environment: Environment) -> None:
    """Refuse an app whose *options* (``broker_transport_options``) put messages where the resource, and with it the
    exporter, does not
    look: the pool would see an empty queue. Raises `MisconfiguredError`.
    """
    prefix = environment.key_prefix
    if "global_keyprefix" in options and (options["global_keyprefix"] or "") != prefix:
        own = options["global_keyprefix"]
        raise MisconfiguredError(
            "broker.keyPrefix", prefix,
            f"the app's broker_transport_options say global_keyprefix={own!r}, and the exporter counts the keys "
            "with the resource's prefix",
            f"set broker.keyPrefix to {own!r}, or remove global_keyprefix from the app",
        )  # fmt: skip
    steps = environment.priority_steps or DEFAULT_STEPS
    if "priority_steps" in options and {*options["priority_steps"]} != {*steps}:
        own = sorted(options["priority_steps"])
        raise MisconfiguredError(
            "broker.prioritySteps", ",".join(map(str, steps)),
            f"the app's broker_transport_options say priority_steps={own}: messages of the other steps would be "
            "neither counted nor fetched",
            f"set broker.prioritySteps to {own}, or remove priority_steps from the app",
        )  # fmt: skip
    for name, stock in FIXED_OPTIONS.items():
        if name in options and options[name] != stock:
            raise MisconfiguredError(
                "app", f"broker_transport_options[{name!r}] = {options[name]!r}", FIXED_REASONS[name],
                f"remove {name} from the app's broker_transport_options, and from those of its producers",
            )  # fmt: skip


DEFAULT_STEPS = (0, 3, 6, 9)
"""Of ``broker.prioritySteps``, and kombu's."""

FIXED_OPTIONS: dict[str, Any] = {"sep": "\x06\x16", "unacked_key": "unacked", "ack_emulation": True}
"""Options of kombu's that have no field in the resource, with kombu's defaults."""

FIXED_REASONS = {
    "sep": "the exporter knows queues with priorities by kombu's own separator, and would count nothing",
    "unacked_key": "the exporter counts unacknowledged messages under kombu's own key, and the pool would rest "
    "while some are to be restored",
    "ack_emulation": "without it, what a killed worker held is lost",
}
