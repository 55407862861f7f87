"""The watchdog's message names a remedy for libraries that are known to block."""

from __future__ import annotations

import pytest

from greenworker.monitoring.remedies import remedy_of

SITE = "/usr/lib/python3.12/site-packages"
APP = ("/app/proj/tasks.py", 12, "sync")


@pytest.mark.parametrize(
    ("file", "function", "word"),
    [
        (f"{SITE}/psycopg/connection.py", "wait", "PSYCOPG_WAIT_FUNC"),
        (f"{SITE}/psycopg2/__init__.py", "connect", "hostaddr"),
        (f"{SITE}/MySQLdb/connections.py", "query", "PyMySQL"),
        (f"{SITE}/grpc/_channel.py", "_blocking", "gRPC"),
        ("/usr/lib/python3.12/socket.py", "getaddrinfo", "dnspython"),
        ("/usr/lib/python3.12/subprocess.py", "_try_wait", "Eventlet has patched"),
    ],
)
def test_a_known_library_has_its_own_remedy_and_prefork_as_the_other(file: str, function: str, word: str) -> None:
    remedy = remedy_of([(file, 1, function), APP])
    assert word in remedy
    assert "prefork.tasks" in remedy


@pytest.mark.parametrize(
    "stack",
    [
        [],
        [APP],
        [("/usr/lib/python3.12/socket.py", 1, "recv_into"), APP],
        [(f"{SITE}/psycopg2/extras.py", 1, "execute"), APP],  # Eventlet patches it
        [("/app/psycopg_helpers.py", 1, "wait"), APP],
    ],
)
def test_what_is_not_known_has_none(stack: list[tuple[str, int, str]]) -> None:
    assert remedy_of(stack) == ""
