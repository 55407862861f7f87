"""Whether a URL of a broker or a result backend can be read, asked before any library does: their errors quote what
they cannot read, and that is often a part of the password. Standard library only.
"""

from __future__ import annotations

from urllib.parse import urlsplit

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
    return scheme not in ("redis", "rediss", "sentinel") or is_readable(url)


SUPPORTED = ("redis", "rediss", "sentinel", "amqp", "amqps", "pyamqp")


def unsupported_scheme(url: str) -> str | None:
    """The first scheme, of one URL or of several with ``;`` between them, that this worker has no transport for."""
    schemes = [part.split("://", maxsplit=1)[0].strip().lower() for part in url.split(";") if part.strip()]
    return next((scheme for scheme in schemes if scheme.split("+", maxsplit=1)[0] not in SUPPORTED), None)
