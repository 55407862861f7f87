"""Whether a broker URL can be read, asked before any library does: their errors quote what they cannot read, and that is often a part of
the password. Standard library only.
"""

from __future__ import annotations

from urllib.parse import urlsplit

UNREADABLE = "the broker URL cannot be read (it may hold a password, and is not shown)"
FIX = "write %2F for /, %23 for #, %3F for ?, %40 for @ in its user and password, and a number for the port"


def is_readable(url: str) -> bool:
    """False for a URL, or one of several with ``;`` between them, without a scheme or with a port that is no number:
    such a "port" is what stands before an unescaped ``/``, ``#`` or ``?`` in the password.
    """
    try:
        for part in url.split(";"):
            _ = urlsplit(part).port
    except ValueError:
        return False
    return "://" in url
