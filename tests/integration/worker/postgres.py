"""A real PostgreSQL for tests of what people's tasks do with it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.integration.worker.harness import eventually
from tests.ports import free_port

DATABASE = USER = "shop"


class Postgres:
    """A server on loopback with a database of its own. It refuses root, so that root starts it as nobody."""

    def __init__(self) -> None:
        self.programs = newest_programs()
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="greenfleet-postgres-"))  # not below what only root may enter
        self.owner = pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else os.getuid()
        os.chown(self.directory, self.owner, -1)
        self.settings = {"host": "127.0.0.1", "port": str(self.port), "dbname": DATABASE, "user": USER}
        data = str(self.directory / "data")
        self._run("initdb", "-D", data, "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        self.process = subprocess.Popen(
            [
                self.programs / "postgres", "-D", data, "-p", str(self.port), "-k", str(self.directory),
                "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=60",
                "-c", "client_connection_check_interval=500ms",
            ],
            stdout=(self.directory / "log").open("ab"), stderr=subprocess.STDOUT, user=self.owner, cwd="/",
        )  # fmt: skip
        eventually(self._answers, "PostgreSQL answers", 60, more=(self.directory / "log").read_text)
        self.query(f"CREATE DATABASE {DATABASE}", database="postgres")

    def query(self, text: str, database: str = DATABASE) -> list[list[str]]:
        """The rows, each value as text."""
        out = self._run(
            "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database, "-XAtq", "-F", "\t",
            "-v", "ON_ERROR_STOP=1", "-c", text,
        )  # fmt: skip
        return [line.split("\t") for line in out.splitlines()]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)  # which waits for no client
        self.process.wait(20)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        command = [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self.programs / program, *arguments],
            user=self.owner, cwd="/", text=True, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


def newest_programs() -> Path:
    """Debian keeps the server's programs off the PATH, by major version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parents[1].name))
    if not found:
        raise RuntimeError("postgresql is missing: apt-get install -y --no-install-recommends postgresql")
    return found[-1].parent
