"""What kind of error keeps the exporter from a broker: one word of a fixed list, never a text of the broker or a URL.

It follows from the types and numbers of the whole chain of exceptions, and from what the client libraries and RabbitMQ
write where those say too little: several versions of redis-py and py-amqp are in use, and neither is imported here.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator

from greenworker.misconfigured import MisconfiguredError

AUTHENTICATION_REFUSED = "AuthenticationRefused"
VIRTUAL_HOST_REFUSED = "VirtualHostRefused"
NOT_ALLOWED = "NotAllowed"
NAME_NOT_RESOLVED = "NameNotResolved"
CONNECTION_REFUSED = "ConnectionRefused"
UNREACHABLE = "Unreachable"
TIMED_OUT = "TimedOut"
TLS_FAILED = "TlsFailed"
INVALID_URL = "InvalidUrl"
OTHER = "Other"

KINDS = (
    AUTHENTICATION_REFUSED, VIRTUAL_HOST_REFUSED, NOT_ALLOWED, NAME_NOT_RESOLVED, CONNECTION_REFUSED, UNREACHABLE,
    TIMED_OUT, TLS_FAILED, INVALID_URL, OTHER,
)  # fmt: skip
"""All of them, docs/contract.md."""

_CLASSES = {
    "AuthenticationError": AUTHENTICATION_REFUSED,
    "AuthenticationWrongNumberOfArgsError": AUTHENTICATION_REFUSED,
    "NoPermissionError": NOT_ALLOWED,
    "AccessRefused": NOT_ALLOWED,
    "NotAllowed": VIRTUAL_HOST_REFUSED,
    "TimeoutError": TIMED_OUT,
}
"""Of redis-py and py-amqp, by the name of the class."""

_NUMBERS = {
    errno.ECONNREFUSED: CONNECTION_REFUSED,
    errno.EHOSTUNREACH: UNREACHABLE,
    errno.ENETUNREACH: UNREACHABLE,
    errno.ETIMEDOUT: TIMED_OUT,
}

_TEXTS = (
    (re.compile(r"Login was refused|WRONGPASS|NOAUTH|invalid (?:username-)?password"), AUTHENTICATION_REFUSED),
    (re.compile(r"NOT_ALLOWED - .*vhost", re.DOTALL), VIRTUAL_HOST_REFUSED),
    (re.compile(r"Error -\d+ connecting to"), NAME_NOT_RESOLVED),
    (re.compile(rf"Error {errno.ECONNREFUSED} connecting to"), CONNECTION_REFUSED),
    (re.compile(r"Timeout connecting to"), TIMED_OUT),
)  # fmt: skip
"""What is written where the type says too little, the most telling first."""


def kind_of(error: BaseException) -> str:
    """One of `KINDS`: of the first exception in the chain that says enough, the outermost first."""
    chain = list(_chain(error))
    for one in chain:
        text = str(one)
        for pattern, kind in _TEXTS:
            if pattern.search(text):
                return kind
    for one in chain:
        if kind := _by_type(one):
            return kind
    return OTHER


def _by_type(error: BaseException) -> str:
    if isinstance(error, (socket.gaierror, UnicodeError)):  # a name that is no name fails before anybody is asked
        return NAME_NOT_RESOLVED
    if isinstance(error, ssl.SSLError):
        return TLS_FAILED
    if isinstance(error, (MisconfiguredError, ValueError)):
        return INVALID_URL
    if isinstance(error, TimeoutError):
        return TIMED_OUT
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return _NUMBERS[error.errno]
    return next((_CLASSES[one.__name__] for one in type(error).__mro__ if one.__name__ in _CLASSES), "")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
