"""Whether a URL of a broker or a result backend can be read, asked before any library does: their errors quote what
they cannot read, and that is often a part of the password. Standard library only.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from greenworker.misconfigured import MisconfiguredError

REDIS = ("redis", "rediss", "sentinel")
AMQP = ("amqp", "pyamqp", "amqps")
SUPPORTED = (*REDIS, *AMQP)
"""Schemes of the brokers that this worker has a transport for."""

UNREADABLE = "the URL cannot be read (it may hold a password, and is not shown)"
FIX = "write %2F for /, %23 for #, %3F for ?, %40 for @ in its user and password, and a number for the port"


def is_readable(url: str) -> bool:
    """False for a URL, or one of several with ``;`` between them, without a scheme, with a port that is no number, or
    with an ``@`` after the host: what stands before it is then the end of a password with an unescaped ``/``, ``#`` or
    ``?``.
    """
    try:
        for part in url.split(";"):
            found = urlsplit(part)
            _ = found.port
            if "@" in found.path + found.query + found.fragment:
                return False
    except ValueError:
        return False
    return "://" in url


def is_readable_backend(url: str) -> bool:
    """The same for a result backend. Those that are not Redis have addresses of their own kinds: several hosts, or
    none.
    """
    scheme = url.split(":", maxsplit=1)[0].lower()
    return scheme not in REDIS or is_readable(url)


def unsupported_scheme(url: str) -> str | None:
    """The first scheme, of one URL or of several with ``;`` between them, that this worker has no transport for."""
    schemes = [part.split("://", maxsplit=1)[0].strip().lower() for part in url.split(";") if part.strip()]
    return next((scheme for scheme in schemes if scheme.split("+", maxsplit=1)[0] not in SUPPORTED), None)


def unsupported(scheme: str) -> MisconfiguredError:
    """What to say of such a scheme."""
    return MisconfiguredError(
        "broker.urlFrom", f"{scheme}://…", "this worker speaks to Redis and to RabbitMQ",
        "use redis://, rediss://, sentinel://, amqp:// or amqps:// in each URL, or run this app on a stock "
        "Celery worker",
    )  # fmt: skip


def needs_redis(url: str) -> bool:
    """Whether the library for Redis has to be there for this broker."""
    return url.split("://", maxsplit=1)[0] in REDIS


def without_master_name(url: str) -> tuple[str, str]:
    """The URL without ``?master_name=``, and the name. The exporter reads it there; kombu wants it among its
    options.
    """
    found = re.findall(r"[?&]master_name=([^&;]*)", url) if url.startswith("sentinel://") else []
    if not found:
        return url, ""
    stripped = re.sub(r"master_name=[^&;]*&?", "", url)
    return re.sub(r"[?&](?=;|$)", "", stripped), unquote(found[0])
