"""What must not be read by others is taken out of every text that leaves: logs, the termination message, answers of the
metrics port.

The operator has the same function, in a package that may not be imported here; `tests/unit/test_redaction.py` holds
both to one table. Standard library only.
"""

from __future__ import annotations

import re

LIMIT_CHARACTERS = 65_536
"""What is longer is cut: no message for people is, and no time is spent on what is made to be long."""

_HIDDEN = "***"
_AUTHORITY = re.compile(r"://([^\s/?#]*)")
_NO_SECRET = re.compile(r"(\[[\w:.%]*\]|[^:]*)(:\d{0,5}(?!\w).*)?", re.DOTALL)
"""A host with or without a port. What stands there else is a user and the beginning of a password, whose end was cut
off.
"""
_NAMES = r"(?:passw(?:or)?d|passphrase|pwd|secret|token|api_?key|access_?key)"
_IN_QUERY = re.compile(rf"[?&;]\w{{0,40}}{_NAMES}=", re.IGNORECASE)
_QUOTED = re.compile(rf"""({_NAMES}["'] ?[:=] ?["'])[^"'\n]*""", re.IGNORECASE)
_ASSIGNED = re.compile(rf"""({_NAMES} ?= ?)("[^"\n]*"?|'[^'\n]*'?|[^\s,;&"']+)""", re.IGNORECASE)


def redacted(text: str) -> str:
    """*text* without the credentials of any URL in it, and without what is called a password.

    Of a line with a URL everything between the first ``://`` and the last ``@`` goes: users forget to escape blanks,
    quotes, ``/``, ``#``, ``?`` and ``@`` in a password, and where a password ends is then anybody's guess. Takes time
    in proportion to the length.
    """
    if len(text) > LIMIT_CHARACTERS:
        text = text[:LIMIT_CHARACTERS] + " … (cut)"
    return "\n".join([_line(line) for line in text.split("\n")])


def _line(line: str) -> str:
    start = line.find("://") + 3
    if start >= 3:
        end, query = line.rfind("@", start), _IN_QUERY.search(line, start)
        if end >= 0 and query is not None and end >= query.end():
            return line[:start] + _HIDDEN  # either may be a part of the other
        if query is not None:
            line = line[: query.end()] + _HIDDEN
        if end >= 0:
            return line[:start] + _HIDDEN + _without_cut_urls(line[end:])
        line = _without_cut_urls(line)
    if "=" in line or ":" in line:
        line = _ASSIGNED.sub(rf"\1{_HIDDEN}", _QUOTED.sub(rf"\1{_HIDDEN}", line))
    return line


def _without_cut_urls(text: str) -> str:
    for found in _AUTHORITY.finditer(text):
        if not _NO_SECRET.fullmatch(found[1]):
            return text[: found.start(1)] + _HIDDEN
    return text
