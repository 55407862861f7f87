"""Celery settings of a green worker.

Most are set as Celery's own *defaults*, before the user's app exists: whatever the app or a task says itself, in any of
the spellings that Celery knows, wins without our having to find out. Only broker options are merged afterwards.
"""

from __future__ import annotations

import json
import os
from typing import Any

from greenworker import tls
from greenworker.bootstrap.requirements import RESULTS_ON_REDIS, check_version, installed
from greenworker.brokers.kind import BrokerKind, urls_of
from greenworker.brokers.url import needs_redis, without_master_name
from greenworker.environment import Environment

PUBLISH_RETRY_POLICY = {"max_retries": 180, "interval_start": 0, "interval_step": 0.2, "interval_max": 1.0}
"""How long a task waits for a broker that does not take what it publishes: three minutes, and longer where each try
waits for a connection. Celery's own is less than a second, after which a chain ends with FAILURE although only its
broker was restarted. The fault runs take the broker away for a minute (docs/reliability.md).
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
    # A ceiling: redis-py 8 refuses the 101st connection, and a thousand tasks may store their results at once.
    "redis_max_connections": 10_000,
    "broker_connection_retry_on_startup": True,
    "worker_consumer": "greenworker.pool.consumer:Consumer",
}

PREFORK_DEFAULTS: dict[str, Any] = {
    "task_publish_retry_policy": PUBLISH_RETRY_POLICY,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "broker_connection_retry_on_startup": True,
    "worker_consumer": "greenworker.prefork.consumer:Consumer",
}


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


def own_result_backends(app: Any) -> None:
    """Results are subscribed to by one green thread at a time, and on Redis stored and read through its outages. Raises
    `MisconfiguredError` without Redis' library, which Celery misses only when it reads or writes a result.
    """
    backend = str(app.conf.result_backend or "")  # the app itself may name it
    if needs_redis(backend):
        check_version(installed, "redis", RESULTS_ON_REDIS)
        from greenworker.brokers.redis import results  # noqa: PLC0415 - redis-py is optional

        results.own_consumers()
        results.store_through_outages()
        app._backend_cache = None
    if backend.split("://", maxsplit=1)[0] == "rpc":
        _own_rpc_backends(app)


def _own_rpc_backends(app: Any) -> None:
    """``rpc://`` gives each thread that sends a task a queue of its own for the result, by an identity that belongs to
    the thread. A backend that all share reads the first one's queue only, and ``.get()`` in a task would wait for ever.
    So it is made for each green thread, as Celery does by default, unless the app itself says otherwise. Each is read
    by one green thread at a time: `rpc_results`.
    """
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


def secure_broker(app: Any, broker: BrokerKind, environment: Environment) -> list[str]:
    """Have the broker's certificate and host name checked, unless the app or the URL has its own wishes. Returns
    warnings for the log.
    """
    trust, own = environment.broker_trust, app.conf.broker_use_ssl
    if not broker.secure:
        return [tls.warning("broker", "broker_use_ssl of the app")] if own and not tls.checks(own) else []
    tls.check_host_names()
    if not own or own is True:  # True says no more than the scheme does
        own = app.conf.broker_use_ssl = broker.tls_options(trust)
        because = "broker.insecureSkipVerify"
    else:
        because = "broker_use_ssl of the app"
    said = [tls.wishes(url) for url in urls_of(app.conf.broker_read_url)]
    if not all(map(tls.checks, said)):
        return [tls.warning("broker", "ssl_cert_reqs in its URL")]
    if not all(map(tls.checks_name, said)):
        return [tls.warning("broker", "ssl_check_hostname in its URL", "the host name in its certificate is")]
    return [] if all(said) or tls.checks(own) else [tls.warning("broker", because)]


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
