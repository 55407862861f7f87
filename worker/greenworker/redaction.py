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
_WORD = re.compile(r"""[^\s"'`]+""")
_LOGIN_STARTS = re.compile(r"(?:^|[(\[{<=,;/&]):")
_ADDRESS = re.compile(r"(\[[\w:.%]*\]|[\w.%-]+)(:\d{1,5}(?!\w)|/)")
_QUOTED = re.compile(rf"""({_NAMES}["'] ?[:=] ?["'])[^"'\n]*""", re.IGNORECASE)
_ASSIGNED = re.compile(rf"""({_NAMES} ?= ?)("[^"\n]*"?|'[^'\n]*'?|[^\s,;&"']+)""", re.IGNORECASE)


def redacted(text: str) -> str:
    """*text* without the credentials of any URL in it, and without what is called a password.

    Of a line with a URL everything between the first ``://`` and the last ``@`` goes: users forget to escape blanks,
    quotes, ``/``, ``#``, ``?`` and ``@`` in a password, and where a password ends is then anybody's guess. Libraries
    quote a URL that they misread without its scheme: ``:password@host`` goes as well, and ``user:password@host`` with a
    port or a path. Digests of images, names of Celery's workers and addresses of people stay. Takes time in proportion
    to the length.
    """
    if len(text) > LIMIT_CHARACTERS:
        text = text[:LIMIT_CHARACTERS] + " … (cut)"
    return "\n".join([_line(line) for line in text.split("\n")])


def _line(line: str) -> str:
    start = line.find("://") + 3
    if "@" in line:
        before = line[: start - 3] if start >= 3 else line
        hidden = _WORD.sub(_without_login, before)
        line, start = hidden + line[len(before) :], start + len(hidden) - len(before)
    if start >= 3:
        end, query = line.rfind("@", start), _IN_QUERY.search(line, start)
        if end >= 0 and query is not None and end >= query.end():
            return line[:start] + _HIDDEN  # either may be a part of the other
        if query is not None:
            line = line[: query.end()] + _HIDDEN
        if end >= 0:
            return line[:start] + _HIDDEN + _without_cut_urls(line[end:])
        line = _without_cut_urls(line)
    # Both are slow, and the conditions of a thousand pools come by every tick.
    if ('"' in line or "'" in line) and ("=" in line or ":" in line):
        line = _QUOTED.sub(rf"\1{_HIDDEN}", line)
    if "=" in line:
        line = _ASSIGNED.sub(rf"\1{_HIDDEN}", line)
    return line


def _without_cut_urls(text: str) -> str:
    for found in _AUTHORITY.finditer(text):
        if not _NO_SECRET.fullmatch(found[1]):
            return text[: found.start(1)] + _HIDDEN
    return text


def _without_login(found: re.Match[str]) -> str:
    word = found[0]
    end = word.rfind("@")
    if end < 0 or ":" not in word[:end]:
        return word
    if _ADDRESS.match(word, end + 1):
        start = word.index(":") + 1
    elif login := _LOGIN_STARTS.search(word, 0, end):
        start = login.end()
    else:
        return word
    return word[:start] + _HIDDEN + word[end:]
