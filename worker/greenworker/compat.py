"""What differs between the supported versions of Celery and kombu, and the private names of theirs that the worker
relies on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def queue_type(queue: Any) -> str | None:
    """``x-queue-type`` of kombu's *queue*, if the app says one. *queue* is None where the app has none of that name."""
    return (getattr(queue, "queue_arguments", None) or {}).get("x-queue-type")


def declares_quorum_queues(app: Any, driver_type: str) -> bool:
    """Whether any queue of *app* is a quorum queue, as far as the app says so. Celery has this from 5.5 on
    (``celery.utils.quorum_queues``).
    """
    return driver_type == "amqp" and any(queue_type(queue) == "quorum" for queue in app.amqp.queues.values())


def with_static_prefetch(app: Any, connection: Any) -> Any:
    """*connection*, whose consumer may read quorum queues. Before 5.5 Celery asks for a prefetch count of the whole
    channel, which RabbitMQ refuses on them (``540 NOT_IMPLEMENTED``); it asks for one of each consumer where the
    transport says that it speaks AMQP 0-9-1 to the letter.
    """
    if not has_setting("worker", "detect_quorum_queues") and declares_quorum_queues(
        app, connection.transport.driver_type
    ):
        connection.transport.qos_semantics_matches_spec = lambda _connection: True
    return connection


def prefetch_is_static(consumer: Any) -> bool:
    """Whether the prefetch count of Celery's *consumer* is fixed for the life of each of its consumers: with quorum
    queues.
    """
    driver_type = consumer.connection.transport.driver_type
    if hasattr(consumer, "qos_global"):
        return driver_type == "amqp" and consumer.qos_global is False
    return declares_quorum_queues(consumer.app, driver_type)  # Celery 5.6


def keep_prefetch_count(consumer: Any, count: int) -> None:
    """After a lost connection Celery 5.3 always begins with a smaller prefetch count and restores it task by task,
    against live resize. From 5.4 on ``worker_enable_prefetch_count_reduction`` says so.
    """
    if not has_setting("worker", "enable_prefetch_count_reduction"):
        consumer.initial_prefetch_count = count
        consumer._maximum_prefetch_restored = True


def cold_shutdown_ends_tasks() -> bool:
    """Whether SIGQUIT ends the tasks that run although the warm shutdown waits for them already. From Celery 5.5 on."""
    from celery.worker.consumer import Consumer  # noqa: PLC0415 - not before patching

    return hasattr(Consumer, "cancel_active_requests")


def has_setting(namespace: str, name: str) -> bool:
    """Whether this Celery knows the setting ``NAMESPACE_NAME``."""
    from celery.app.defaults import NAMESPACES  # noqa: PLC0415 - not before patching

    return name in NAMESPACES[namespace]


def result_is_ignored(task: Any, request: Any) -> bool:
    """Whether the end of *request* is not stored. From Celery 5.6 on what its sender said of the result counts more
    than *task*'s ``ignore_result``; before, it does not count.
    """
    from celery.app import trace  # noqa: PLC0415 - not before patching

    decide: Callable[[Any, Any], bool] | None = getattr(trace, "get_actual_ignore_result", None)
    return bool(decide(task, request) if decide else task.ignore_result)


def keep_events_of_the_meantime(dispatcher: Any) -> None:
    """Up to 5.6 Celery empties its buffer of task events after it has sent them. Other green threads have added to it
    meanwhile, and theirs were lost.
    """
    if hasattr(dispatcher, "_closed"):
        return

    def flush(errors: bool = True, groups: bool = True) -> None:
        with dispatcher.mutex:
            unsent = dispatcher._outbound_buffer
            for _ in range(len(unsent) if errors else 0):
                event, routing_key, _error = unsent.popleft()
                dispatcher._publish(event, dispatcher.producer, routing_key)
            for group in list(dispatcher._group_buffer) if groups else ():
                events, dispatcher._group_buffer[group] = dispatcher._group_buffer[group], []
                if events:
                    dispatcher._publish(events, dispatcher.producer, f"{group}.multi")

    dispatcher.flush = flush


def round_up_delays() -> None:
    """From 5.5 on Celery has RabbitMQ delay what has a countdown, on quorum queues behind a topic exchange. kombu
    refuses to delay anything by less than a second, so that a retry after half a second could never be published.
    """
    from celery.app import base  # noqa: PLC0415 - not before patching

    stock: Callable[[int, str], str] | None = getattr(base, "calculate_routing_key", None)
    if stock is None or hasattr(stock, "rounds_up"):
        return

    def calculate_routing_key(countdown: int, routing_key: str) -> str:
        return stock(max(1, countdown), routing_key)

    setattr(calculate_routing_key, "rounds_up", True)  # noqa: B010 - mypy knows no attributes of functions
    setattr(base, "calculate_routing_key", calculate_routing_key)  # noqa: B010 - of a module


@dataclass(frozen=True)
class Private:
    """A name of a library's own that the worker relies on."""

    where: str
    """``module:Class.name``; what comes last may also be an attribute that only the class's own code sets."""
    reason: str
    parameters: tuple[str, ...] | None = None
    """The first parameters of what is called or overridden, without ``self``. None: it is not called, or by nobody who
    names them.
    """
    since: str = ""
    """The first version of the library that has it; earlier ones do without, and so does the worker."""

    @property
    def name(self) -> str:
        """The last part."""
        return self.where.replace(":", ".").rsplit(".", 1)[-1]


_ASYNPOOL = "celery.concurrency.asynpool:AsynPool"
_CONSUMER = "celery.worker.consumer.consumer:Consumer"
_REDIS = "kombu.transport.redis"
_VIRTUAL = "kombu.transport.virtual.base"

PRIVATE = (
    # Celery
    Private("celery.app.defaults:_OLD_DEFAULTS", "our defaults count for apps that use the old names of settings"),
    Private("celery.app.defaults:_TO_OLD_KEY", "the same"),
    Private("celery.app.defaults:NAMESPACES", "which settings this version has"),
    Private(
        "celery.app.trace:get_actual_ignore_result",
        "RETRY is stored where the end is stored",
        ("task", "req"),
        since="5.6",
    ),
    Private("celery.events.dispatcher:EventDispatcher._closed", "5.7 keeps what is buffered meanwhile", since="5.7"),
    Private("celery.events.dispatcher:EventDispatcher._group_buffer", "earlier ones do not"),
    Private("celery.events.dispatcher:EventDispatcher._outbound_buffer", "the same"),
    Private("celery.events.dispatcher:EventDispatcher._publish", "the same", ("event", "producer", "routing_key")),
    Private("threading:_shutdown", "a worker ends without taking the interpreter apart", ()),
    Private("atexit:_run_exitfuncs", "the same"),
    Private("celery.backends.redis:ResultConsumer._locked", "5.7 subscribes one at a time", (), since="5.7"),
    Private("celery.backends.redis:ResultConsumer._reconnect_pubsub", "earlier ones do not", ()),
    Private("celery.backends.redis:ResultConsumer.consume_from", "the same", ("task_id",)),
    Private("celery.backends.redis:ResultConsumer.cancel_for", "the same", ("task_id",)),
    Private("celery.backends.redis:ResultConsumer._pubsub", "None: its connection was lost"),
    Private("celery.backends.redis:ResultConsumer.subscribed_to", "the keys of all results that are waited for"),
    Private("celery.backends.redis:ResultConsumer._get_key_for_task", "the key of one"),
    Private("celery.backends.redis:ResultConsumer.on_state_change", "a result is there", ("meta", "message")),
    Private("celery.backends.redis:ResultConsumer.drain_events", "who reads results never ends", ("timeout",)),
    Private("celery.backends.redis:RedisBackend._create_client", "who looks for a result gives up soon"),
    Private(
        "celery.backends.asynchronous:BaseResultConsumer._wait_for_pending",
        "who waits for a result asks for it now and then",
        ("result", "timeout", "on_interval"),
    ),
    Private(
        "celery.backends.base:BaseKeyValueStoreBackend._store_result",
        "a task waits with its result for a Redis that is away",
        ("task_id", "result", "state"),
    ),
    Private(
        "celery.backends.base:BaseKeyValueStoreBackend._set_with_state",
        "what is no end of a task replaces none",
        ("key", "value", "state"),
    ),
    Private(
        "celery.app.base:calculate_routing_key",
        "a delay of less than a second is a second on a quorum queue",
        ("countdown", "routing_key"),
        since="5.5",
    ),
    Private("celery.app.base:Celery._backend_cache", "one result backend for all green threads"),
    Private("celery.utils.collections:ConfigurationView._to_keys", "all spellings of a setting", ("key",)),
    Private(f"{_CONSUMER}._flush_events", "task events are sent together", ()),
    Private(f"{_CONSUMER}._schedule_bucket_request", "rate limits hold for what waits for a thread", ("bucket",)),
    Private(f"{_CONSUMER}._update_prefetch_count", "live resize", ("index",)),
    Private(
        f"{_CONSUMER}._limit_post_eta",
        "a rate limit after an ETA is no longer held for the ETA",
        ("request", "bucket", "tokens"),
    ),
    Private(f"{_CONSUMER}._maximum_prefetch_restored", "5.3 cannot be told to keep its prefetch count"),
    Private(f"{_CONSUMER}.apply_eta_task", "what is held for an ETA is known", ("task",)),
    Private(f"{_CONSUMER}.on_connection_error_after_connected", "the prefetch count is kept", ("exc",)),
    Private(f"{_CONSUMER}.perform_pending_operations", "our loop does what Celery's does", ()),
    Private(f"{_CONSUMER}.call_soon", "an acknowledgement that fails is counted", ("p",)),
    Private(f"{_CONSUMER}.call_soon_ack", "the same", ("p",), since="5.7"),
    Private(f"{_CONSUMER}.connection_for_read", "our transport for this connection only", ("heartbeat",)),
    Private(f"{_CONSUMER}.ensure_connected", "the same", ("conn",)),
    Private(f"{_CONSUMER}.on_close", "what has not started goes back", ()),
    Private(f"{_CONSUMER}.create_task_handler", "each message is looked at first"),
    Private(
        "celery.worker.loops:synloop",
        "our loop is called as Celery's",
        ("obj", "connection", "consumer", "blueprint", "hub", "qos", "heartbeat", "clock", "hbrate"),
    ),
    Private(
        "celery.worker.request:Request._announce_revoked",
        "settled whatever the result backend says",
        ("reason", "terminated", "signum", "expired"),
    ),
    Private("celery.worker.request:Request._already_cancelled", "a task that a drain has ended has not failed"),
    Private("celery.worker.request:Request._context", "a dead letter is recorded as the task's failure"),
    Private(
        "celery.worker.request:Request._eta_timer_entry", "a drain takes back what is held for an ETA", since="5.7"
    ),
    Private(
        "celery.worker.request:Request.on_failure",
        "the message is kept until the task's end is published",
        ("exc_info", "send_failed_event", "return_ok"),
    ),
    Private("celery.worker.request:Request.on_timeout", "hard time limits on green threads", ("soft", "timeout")),
    Private("celery.concurrency.base:BasePool._get_info", "`inspect stats` of the green pool", ()),
    Private("celery.concurrency.prefork:TaskPool._pool", "tasks that Celery has discarded are forgotten"),
    Private(f"{_ASYNPOOL}._busy_workers", "processes that are busy stay so after a lost connection"),
    Private(f"{_ASYNPOOL}._tref_for_id", "time limits outlive a lost connection"),
    Private(f"{_ASYNPOOL}._on_soft_timeout", "the same", ("job", "soft", "hard", "hub")),
    Private(f"{_ASYNPOOL}._on_hard_timeout", "the same", ("job",)),
    Private("celery.worker.pidbox:gPidbox._do_reset", "remote control outlives an error", ("c", "connection")),
    Private("celery.worker.pidbox:gPidbox._node_shutdown", "the same"),
    Private("celery.worker.pidbox:gPidbox._node_stopped", "the same"),
    Private("celery.worker.pidbox:gPidbox._resets", "the same"),
    Private("celery.worker.control:Panel.meta", "which remote commands only read"),
    Private(
        "celery.app.task:Task.retry",
        "RETRY is stored before the retry is published",
        ("args", "kwargs", "exc", "throw", "eta", "countdown", "max_retries"),
    ),
    Private("celery.backends.base:Backend.mark_as_retry", "the same", ("task_id", "exc", "traceback", "request")),
    Private(
        "celery.backends.rpc:ResultConsumer._reconnect",
        "nobody reads results over the broker while it connects",
        (),
        since="5.6",
    ),
    Private(
        "celery.apps.worker:safe_say",
        "a signal handler waits for no pipe; Celery's own lines are in the application's log format",
        ("msg",),
    ),
    # kombu
    Private("kombu.message:Message._decoded_cache", "a body is decoded once"),
    Private("kombu.message:Message._state", "a message that went back another way is settled"),
    Private(
        "kombu.messaging:Consumer._active_tags",
        "consumers are cancelled without waiting; whose queue a message is from",
    ),
    Private("kombu.messaging:Consumer._queues", "several consumers for each quorum queue"),
    Private("kombu.messaging:Consumer._tags", "the same"),
    Private("kombu.messaging:Consumer._receive_callback", "the same", ("message",)),
    Private("kombu.connection:Connection._connection", "a lost connection is not replaced unseen"),
    Private("kombu.connection:Connection._ensure_connection", "the same"),
    Private(
        "kombu.connection:Connection.qos_semantics_matches_spec",
        "the prefetch count of quorum queues before Celery 5.5",
    ),
    Private(f"{_VIRTUAL}:Transport._avail_channels", "the unacked store uses the channel that has just connected"),
    Private(f"{_VIRTUAL}:Transport._deliver", "a message that was fetched is handed to Celery", ("message", "queue")),
    Private(f"{_VIRTUAL}:QoS._delivered", "what a channel has delivered"),
    Private(f"{_VIRTUAL}:QoS._quick_ack", "what went back another way is forgotten"),
    Private(f"{_VIRTUAL}:Channel._get_message_priority", "a forwarded message keeps its priority", ("message",)),
    Private(f"{_REDIS}:Channel._get_pool", "connections of our own to the same broker"),
    Private(f"{_REDIS}:Channel._get_client", "a Redis that takes no writes is a lost connection", ()),
    Private(f"{_REDIS}:Channel._size", "a full Redis can still be read", ("queue",)),
    Private(f"{_REDIS}:Channel._queue_bind", "the same"),
    Private(f"{_REDIS}:Channel._q_for_pri", "the lists of a queue", ("queue", "pri")),
    Private(f"{_REDIS}:Channel._queue_cycle", "the order of the queues"),
    Private(f"{_REDIS}:MultiChannelPoller._channels", "atomic fetch in place of BRPOP"),
    Private(f"{_REDIS}:MultiChannelPoller._register_BRPOP", "the same", ("channel",)),
    Private(f"{_REDIS}:MultiChannelPoller._register_LISTEN", "the same", ("channel",)),
    Private(f"{_REDIS}:MultiChannelPoller._in_protected_read", "the same"),
    Private(f"{_REDIS}:MultiChannelPoller.handle_event", "the same", ("fileno", "event")),
    Private(f"{_REDIS}:MultiChannelPoller.on_poll_init", "the same", ("poller",)),
    Private(f"{_REDIS}:MultiChannelPoller.on_poll_start", "the same", ()),
    Private(
        f"{_REDIS}:MultiChannelPoller._on_connection_disconnect", "a closed connection ends no rounds", ("connection",)
    ),
    Private(f"{_REDIS}:MultiChannelPoller.maybe_restore_messages", "the unacked store restores by itself", ()),
    Private(
        f"{_REDIS}:MultiChannelPoller.maybe_refresh_binding_expiry", "bindings with a time to live", (), since="5.7"
    ),
    Private(f"{_REDIS}:QoS.restore_by_tag", "messages of `basic_get`", ("tag", "client")),
    Private(f"{_REDIS}:PrefixedStrictRedis", "a prefix before each key"),
    Private("kombu.utils.scheduling:priority_cycle", "the order of the queues"),
    Private("kombu.utils.json:object_hook", "one decoder for all messages"),
    Private("kombu.utils.compat:detect_environment", "whether kombu knows that it is green", ()),
    # py-amqp
    Private(
        "amqp.channel:Channel._on_basic_deliver", "what is unsettled, by consumer", ("consumer_tag", "delivery_tag")
    ),
    Private(
        "amqp.channel:Channel._on_close",
        "what the broker cannot do for now is a lost connection",
        ("reply_code", "reply_text", "class_id", "method_id"),
    ),
    Private("amqp.connection:Connection._on_close", "the same", ("reply_code", "reply_text", "class_id", "method_id")),
    Private("amqp.channel:Channel._basic_publish", "without waiting for its confirmation", ()),
    Private("amqp.channel:Channel._confirm_selected", "whether this channel confirms"),
    Private("amqp.connection:Connection._on_blocked", "the broker blocks who publishes", ()),
    Private("amqp.connection:Connection._on_unblocked", "it takes messages again", ()),
    Private("amqp.channel:Channel._do_revive", "tags of a closed channel mean nothing", ()),
    Private("amqp.abstract_channel:AbstractChannel._callbacks", "what a channel does when the broker closes it"),
    Private(
        "amqp.channel:Channel.basic_ack", "acknowledgements travel together", ("delivery_tag", "multiple", "argsig")
    ),
    Private("amqp.connection:Connection._transport", "whether the connection is open"),
    Private("amqp.connection:Connection.on_inbound_frame", "the socket is read in large pieces"),
    Private("amqp.connection:Connection.blocking_read", "the same", ("timeout",)),
    Private("amqp.transport:TCPTransport._quick_recv", "the same"),
    Private("amqp.transport:_AbstractTransport.having_timeout", "the same", ("timeout",)),
    Private("amqp.method_framing:frame_writer", "one green thread writes at a time", ("connection", "transport")),
    Private("amqp.spec:Basic.Nack", "returns that use up no delivery"),
    # billiard
    Private("billiard.pool:Pool._cache", "tasks that Celery has discarded are forgotten, those that run are not"),
    Private("billiard.pool:ApplyResult._job", "the same"),
    Private("billiard.pool:ApplyResult._accepted", "whether a process has begun a task"),
    Private("billiard.pool:ApplyResult._worker_pid", "the same"),
    Private("billiard.pool:ApplyResult._write_to", "whether a task is on its way to a process"),
    Private("billiard.pool:ApplyResult._soft_timeout", "time limits outlive a lost connection"),
    Private("billiard.pool:ApplyResult._timeout", "the same"),
    Private("billiard.pool:ApplyResult._time_accepted", "the same"),
    Private("billiard.process:BaseProcess._is_alive", "the same", ()),
    # Eventlet
    Private("eventlet.hubs.hub:BaseHub.schedule_call_global", "time limits", ("seconds", "cb")),
    Private("eventlet.hubs.hub:BaseHub.wait", "how busy the hub is", ("seconds",)),
    Private("eventlet.hubs.hub:BaseHub.listeners", "the same"),
    Private("eventlet.hubs.hub:BaseHub.debug_blocking", "Eventlet's own blocking detection is refused"),
    Private("eventlet.hubs.poll:Hub.do_poll", "how busy the hub is", ("seconds",)),
    Private("eventlet.greenthread:spawn_n", "a green thread without a result costs least", ("func",)),
    Private("eventlet.greenthread:kill", "time limits and the end of a drain", ("g",)),
    Private("eventlet.greenio:GreenSocket", "whether sockets are green"),
    Private("celery.concurrency.eventlet:Timer", "ETA, rate limits and heartbeats"),
)
"""Of Celery, kombu, py-amqp, billiard and Eventlet, in all supported versions. A test looks for each of them in the
version that is installed, and for private names in the worker's code that are not here. So a new version of Celery that
renames one fails there, by name.
"""
