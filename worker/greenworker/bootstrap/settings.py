"""Celery settings of a green worker.

Most are set as Celery's own *defaults*, before the user's app exists: whatever the app or a task says itself, in any of
the spellings that Celery knows, wins without our having to find out. Only broker options are merged afterwards.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from greenworker import tls
from greenworker.brokers.transports import consumer_transport, first_url, redis_transport
from greenworker.environment import Environment
from greenworker.misconfigured import MisconfiguredError

PUBLISH_RETRY_POLICY = {"max_retries": 60, "interval_start": 0, "interval_step": 0.2, "interval_max": 1.0}
"""How long a task waits for a broker that does not take what it publishes: about a minute. Celery's own is less than a
second, after which a chain ends with FAILURE although only its broker was restarted.
"""

GREEN_DEFAULTS: dict[str, Any] = {
    "task_publish_retry_policy": PUBLISH_RETRY_POLICY,
    # A killed worker loses nothing.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    # What is prefetched and not started waits behind this worker while another one may be idle.
    "worker_prefetch_multiplier": 1,
    # Its gradual restoration after a reconnect fights with live resize.
    "worker_enable_prefetch_count_reduction": False,
    # On Redis what runs can still be acknowledged after a reconnect.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Else the result backend, with connections of its own, is made anew for every task: thread-local is greenlet-local.
    "result_backend_thread_safe": True,
    "broker_connection_retry_on_startup": True,
    "worker_consumer": "greenworker.pool.consumer:Consumer",
}

PREFORK_DEFAULTS: dict[str, Any] = {
    "task_publish_retry_policy": PUBLISH_RETRY_POLICY,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "broker_connection_retry_on_startup": True,
    "worker_consumer": "greenworker.prefork.companion:Consumer",
}

REDIS_CONNECTIONS = 10_000
"""kombu's pools refuse the eleventh connection by default, and acknowledgements fail with it. The number is only a
ceiling: ours go over one connection.
"""


def decode_json_with_one_decoder() -> None:
    """kombu makes a new decoder for every message. Before the user's app is imported: what it registers itself wins."""
    from kombu.serialization import registry  # noqa: PLC0415 - not before patching
    from kombu.utils import json as stock  # noqa: PLC0415

    stock_loads: Any = stock.loads
    register: Any = registry.register
    decode = json.JSONDecoder(object_hook=stock.object_hook).decode

    def loads(text: Any) -> Any:
        return decode(text) if isinstance(text, str) else stock_loads(text)

    register("json", stock.dumps, loads, content_type="application/json", content_encoding="utf-8")


def set_defaults(environment: Environment) -> str:
    """Before the user's app is imported. Returns the master's name if the broker's URL has one: see
    `without_master_name`.
    """
    from celery.app import defaults  # noqa: PLC0415 - not before patching

    decode_json_with_one_decoder()

    chosen = GREEN_DEFAULTS if environment.role == "eventlet" else PREFORK_DEFAULTS
    for name, value in {**chosen, "worker_prefetch_multiplier": environment.prefetch_multiplier}.items():
        # result_backend_thread_safe has no default of Celery's, so it has no old spelling either.
        defaults.DEFAULTS[name] = value
        defaults._OLD_DEFAULTS[defaults._TO_OLD_KEY.get(name, name)] = value
    url, master_name = without_master_name(os.environ.get("CELERY_BROKER_URL", ""))
    if url:
        url = tls.completed(url, environment.broker_trust)
        os.environ["CELERY_BROKER_URL"] = url
        # An app that sets broker_read_url or broker_write_url would go past the URL that the operator gave.
        os.environ.setdefault("CELERY_BROKER_READ_URL", url)
        os.environ.setdefault("CELERY_BROKER_WRITE_URL", url)
    return master_name


def without_master_name(url: str) -> tuple[str, str]:
    """The URL without ``?master_name=``, and the name. The exporter reads it there; kombu wants it among its
    options.
    """
    found = re.findall(r"[?&]master_name=([^&;]*)", url) if url.startswith("sentinel://") else []
    if not found:
        return url, ""
    stripped = re.sub(r"master_name=[^&;]*&?", "", url)
    return re.sub(r"[?&](?=;|$)", "", stripped), unquote(found[0])


def merge_broker_options(app: Any, environment: Environment, master_name: str = "") -> None:
    """After the app is loaded. The app's own options win, except for what the resource says about keys."""
    if redis_transport(app) is None:
        if consumer_transport(app) is not None:
            from greenworker.brokers.amqp import confirms  # noqa: PLC0415 - needs amqp

            confirms.install()
            app.conf.broker_transport_options = {"confirm_publish": True, **(app.conf.broker_transport_options or {})}
        return
    check_layout(app.conf.broker_transport_options or {}, environment)
    options: dict[str, Any] = {
        "max_connections": REDIS_CONNECTIONS,
        "unacked_restore_throttle": 1,
        **REDIS_TIMES,
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


def own_rpc_backends(app: Any) -> None:
    """``rpc://`` gives each thread that sends a task a queue of its own for the result, by an identity that belongs to
    the thread. A backend that all share reads the first one's queue only, and ``.get()`` in a task would wait for ever.
    So it is made for each green thread, as Celery does by default, unless the app itself says otherwise. Each is read
    by one green thread at a time: `rpc_results`.
    """
    if str(app.conf.result_backend or "").split("://", maxsplit=1)[0] != "rpc":
        return
    app.loader.override_backends = {
        "rpc": "greenworker.brokers.amqp.rpc_results:RPCBackend",
        **app.loader.override_backends,
    }
    if not own_word(app, "result_backend_thread_safe"):
        app.conf.result_backend_thread_safe = False
    app._backend_cache = None


def own_word(app: Any, name: str) -> bool:
    """Whether the app itself has set *name*: in anything but Celery's defaults, which are the last of its maps."""
    return any(key in each for each in app.conf.maps[:-1] for key in app.conf._to_keys(name))


REDIS_TIMES: dict[str, Any] = {"socket_timeout": 15.0, "socket_connect_timeout": 5.0, "socket_keepalive": True}
"""Seconds. kombu waits for ever: a connection to a Redis whose node or pod is gone without a word would hold the worker
until TCP itself gives up, which takes a quarter of an hour. None of our commands blocks, so an answer that late will
not come.
"""


def secure_broker(app: Any, environment: Environment) -> list[str]:
    """Have the broker's certificate and host name checked, unless the app or the URL has its own wishes. Returns
    warnings for the log.
    """
    url, trust, own = first_url(app.conf.broker_read_url), environment.broker_trust, app.conf.broker_use_ssl
    scheme = url.split("://")[0]
    if scheme not in ("rediss", "amqps"):
        return [tls.warning("broker", "broker_use_ssl of the app")] if own and not tls.checks(own) else []
    tls.check_host_names()
    if not own or own is True:  # True says no more than the scheme does
        own = app.conf.broker_use_ssl = (tls.redis_options if scheme == "rediss" else tls.amqp_options)(trust)
        because = "broker.insecureSkipVerify"
    else:
        because = "broker_use_ssl of the app"
    if said := tls.wishes(url):
        own, because = said, "ssl_cert_reqs in its URL"
    return [] if tls.checks(own) else [tls.warning("broker", because)]


def secure_result_backend(app: Any, environment: Environment) -> list[str]:
    """The same for a result backend on Redis whose URL is the resource's. Other backends know nothing of these
    options.
    """
    url = os.environ.get("CELERY_RESULT_BACKEND", "")
    if not url.startswith("rediss://"):
        return []
    options, because = tls.redis_options(environment.result_backend_trust), "resultBackend.insecureSkipVerify"
    if app.conf.redis_backend_use_ssl:
        options, because = app.conf.redis_backend_use_ssl, "redis_backend_use_ssl of the app"
    elif tls.checks(tls.wishes(url)):
        app.conf.redis_backend_use_ssl = options
    if said := tls.wishes(url):
        options, because = said, "ssl_cert_reqs in its URL"
    return [] if tls.checks(options) else [tls.warning("resultBackend", because)]
