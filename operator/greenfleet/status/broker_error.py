"""Why the exporter cannot use a broker, as field, value, reason and fix for the person who wrote the pool. Pure.

The exporter says one word (docs/contract.md, `greenfleet_queue_broker_error`). The words and values here are the
spec's own: what a Secret holds is known neither to the exporter's metrics nor to the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from greenfleet.api import GreenWorkerPool
from greenfleet.api.pool import SecretKeyRef
from greenfleet.autoscaling.validation import stale_after_seconds
from greenfleet.manifests.names import exporter_name
from greenfleet.status.stalled import StalledReason

UNKNOWN = "The exporter cannot reach the broker."
"""What is said if the exporter does not say why."""

NAME_SECONDS = 60.0
"""A host name may be unknown for so long before `Stalled` asks for a human: the Service of a StatefulSet has no address
while its pod starts anew, which takes tens of seconds.
"""

PREFIX = "Broker"
"""The first word of each reason of `Stalled` that is made here."""

_AT_ONCE = frozenset({"AuthenticationRefused", "VirtualHostRefused", "NotAllowed", "TlsFailed", "InvalidUrl"})
"""What a broker that starts, or is gone for a moment, does not cause."""
HUMAN = _AT_ONCE | {"NameNotResolved"}
"""What stalls a pool if it lasts."""


def needs_human_at_once(kind: str) -> bool:
    """Whether it cannot be due to a broker that has just not started yet."""
    return kind in _AT_ONCE


def stalled(pool: GreenWorkerPool, kind: str, seconds: float, scrape_seconds: float) -> StalledReason | None:
    """What `Stalled` says of a kind of error that has lasted for *seconds*: None before three scrapes, or before
    `NAME_SECONDS` for a host name.
    """
    if kind not in HUMAN:
        return None
    grace = stale_after_seconds(scrape_seconds) if kind in _AT_ONCE else NAME_SECONDS
    return StalledReason(f"{PREFIX}{kind}", message(pool, kind)) if seconds >= grace else None


def message(pool: GreenWorkerPool, kind: str) -> str:
    """Field, value, reason and fix; `UNKNOWN` for a kind that is not known here, or none."""
    text = _TEXTS.get(kind)
    return UNKNOWN if text is None else text(pool)


def _at(pool: GreenWorkerPool, part: str, *, of_url: str, unset: str = "it") -> str:
    """A part of the broker's URL, with its field and value. *of_url* is its name within a URL, *unset* what is used
    where the field is not set.
    """
    broker = pool.spec.broker
    if broker.url_from is not None:
        ref = broker.url_from.secret_key_ref
        return f"broker.urlFrom is the key {ref.key!r} of the Secret {ref.name!r}, and {of_url} in this URL"
    value = broker.parts.get(part)
    if value is None:
        return f"broker.{part} is not set, and {unset}"
    return f"broker.{part} is {_value(value)}, and it"


def _value(value: str | SecretKeyRef) -> str:
    return repr(value) if isinstance(value, str) else f"the key {value.key!r} of the Secret {value.name!r}"


def _authentication(pool: GreenWorkerPool) -> str:
    broker = pool.spec.broker
    guest = "; RabbitMQ's user guest may connect from the broker's own host only"
    if broker.url_from is not None:
        ref = broker.url_from.secret_key_ref
        return (
            f"broker.urlFrom is the key {ref.key!r} of the Secret {ref.name!r}, and the broker refuses the user or the "
            "password in this URL: correct them there, percent-encoded where they have characters such as @ : / # %"
            f"{guest}"
        )
    password, user = broker.parts.get("password"), broker.parts.get("username")
    named = "the default user" if user is None else f"the user of broker.username, {_value(user)}"
    if password is None:
        return f"broker.password is not set, and the broker refuses {named} without a password: set it"
    redis = broker.transport in ("redis", "rediss")
    return (
        f"broker.password is {_value(password)}, and the broker refuses it for {named}: correct it, or broker.username"
        f"{'' if redis else guest}"
    )


def _virtual_host(pool: GreenWorkerPool) -> str:
    return (
        f"{_at(pool, 'path', of_url='the virtual host', unset='the virtual host /')} is refused, because RabbitMQ has "
        "no such virtual host, the user has no rights there, or its limit of connections is reached: correct it (in a "
        "URL, the virtual host / is written %2F or as a second /), or give the user rights (rabbitmqctl "
        "set_permissions)"
    )


def _not_allowed(pool: GreenWorkerPool) -> str:
    return (
        f"{_at(pool, 'username', of_url='the user', unset='the default user')} lacks rights to read the queues: on "
        "Redis, give it all commands and the keys of the queues (ACL SETUSER); on RabbitMQ, the rights to configure, "
        "read and write the queues (rabbitmqctl set_permissions)"
    )


def _name(pool: GreenWorkerPool) -> str:
    return (
        f"{_at(pool, 'host', of_url='the host name')} cannot be resolved in the namespace {pool.namespace!r}: correct "
        "it; a Service of another namespace is called NAME.NAMESPACE"
    )


def _refused(pool: GreenWorkerPool) -> str:
    return (
        f"{_at(pool, 'host', of_url='the host')} refuses the connection, because nothing listens on this port: "
        f"check that the broker runs, or correct {_host_fields(pool, 'port')}"
    )


def _unreachable(pool: GreenWorkerPool) -> str:
    return (
        f"{_at(pool, 'host', of_url='the host')} cannot be reached from the namespace {pool.namespace!r} (no "
        f"route): correct {_host_fields(pool)}, or look for a NetworkPolicy or firewall between them"
    )


def _timed_out(pool: GreenWorkerPool) -> str:
    return (
        f"{_at(pool, 'host', of_url='the host')} does not answer in time: check that the broker runs, that no "
        f"NetworkPolicy or firewall keeps the exporter from it, and that {_host_fields(pool, 'port')} is right"
    )


def _tls(pool: GreenWorkerPool) -> str:
    authority = pool.spec.broker.ca_secret_ref
    trusted = "is not set" if authority is None else f"is {authority.name!r}"
    return (
        f"broker.caSecretRef {trusted}, and the TLS connection to the broker fails: name a Secret with the CA of the "
        "broker's certificate, use the host name that the certificate is for, or, if the port speaks no TLS, "
        f"{'redis:// or amqp:// in the URL' if pool.spec.broker.url_from else 'broker.transport redis or amqp'}; "
        f"{_log(pool)}"
    )


def _url(pool: GreenWorkerPool) -> str:
    broker = pool.spec.broker
    if broker.url_from is None:
        return f"{_at(pool, 'host', of_url='')} and the other parts make no URL: {_log(pool)}"
    ref = broker.url_from.secret_key_ref
    return (
        f"broker.urlFrom is the key {ref.key!r} of the Secret {ref.name!r}, and it holds no URL that Greenfleet "
        "can use: begin it with redis, rediss, sentinel, amqp or amqps, as in redis://HOST:6379/0, with user and "
        f"password percent-encoded before the host; {_log(pool)}"
    )


def _other(pool: GreenWorkerPool) -> str:
    field, value = pool.spec.broker.named_by
    return f"{field} is {value!r}, and the exporter cannot use this broker: {_log(pool)}"


def _host_fields(pool: GreenWorkerPool, *more: str) -> str:
    if pool.spec.broker.url_from is not None:
        return " or ".join(("the host", *more)) + " in the URL"
    return " or ".join(f"broker.{part}" for part in ("host", *more))


def _log(pool: GreenWorkerPool) -> str:
    deployment = exporter_name(pool.spec.broker.identity)
    return f"the exporter's log says why: kubectl -n {pool.namespace} logs deployment/{deployment}"


_TEXTS: Mapping[str, Callable[[GreenWorkerPool], str]] = {
    "AuthenticationRefused": _authentication,
    "VirtualHostRefused": _virtual_host,
    "NotAllowed": _not_allowed,
    "NameNotResolved": _name,
    "ConnectionRefused": _refused,
    "Unreachable": _unreachable,
    "TimedOut": _timed_out,
    "TlsFailed": _tls,
    "InvalidUrl": _url,
    "Other": _other,
}
