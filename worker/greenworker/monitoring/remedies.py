"""What to do about libraries that are known to block the hub, by the frames of a stack sample. Pure.

A library in C has no frames of its own: it is known by the Python files around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

PREFORK = "or list the task in prefork.tasks"

_REMEDIES: tuple[tuple[str, str, str], ...] = (
    (
        r"[/\\]psycopg[/\\]",
        "",
        "psycopg 3 waits in C: remove PSYCOPG_WAIT_FUNC from the image and worker.env (wait_selector is the "
        "default here)",
    ),
    (
        r"[/\\]psycopg2[/\\]",
        "connect",
        "psycopg2 looks the name of the database's host up in C: keep connections, give an address in hostaddr, or use "
        "psycopg 3",
    ),
    (r"[/\\]MySQLdb[/\\]", "", "mysqlclient waits in C: use PyMySQL (pymysql.install_as_MySQLdb())"),
    (r"[/\\]grpc[/\\]", "", "gRPC waits in C, and knows of no Eventlet: call the service over HTTP"),
    (
        r"[/\\]socket\.py$",
        r"getaddrinfo|gethostby.*|getnameinfo",
        "the name of a host is looked up in C: add dnspython to the image and leave EVENTLET_NO_GREENDNS unset",
    ),
    (
        r"[/\\]subprocess\.py$",
        "",
        "a process is started or waited for in C: use the module subprocess, which Eventlet has patched",
    ),
)
"""File, function ("" is any) and what to do."""


def remedy_of(stack: Iterable[tuple[str, int, str]]) -> str:
    """For the first frame, innermost first, whose library is known; "" if none is."""
    for file, _, function in stack:
        for path, name, remedy in _REMEDIES:
            if re.search(path, file) and (not name or re.fullmatch(name, function)):
                return f"{remedy}, {PREFORK}"
    return ""
