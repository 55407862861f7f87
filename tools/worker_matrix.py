"""The worker's tests on every Python and Celery that it supports: ``python tools/worker_matrix.py [--full] [pytest arguments]``.

Interpreters are ``python3.11`` … ``python3.13`` on the PATH, and whatever ``WORKER_PYTHONS`` names (paths, separated by
colons). Each pair of Python and Celery gets an environment of its own under ``out/matrix``, with Celery and kombu of that
minor version and everything else as locked. A version without an interpreter is named as not tested, not passed over.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "matrix"
PYTHONS = ("3.11", "3.12", "3.13")
CELERIES = ("5.6", "5.7")
NEEDED = (
    "eventlet", "redis", "pytest", "pytest-timeout", "hypothesis", "prometheus-client",
)  # fmt: skip
"""Beside Celery and kombu: what a worker needs, and its tests."""
SUITES = ("tests/unit/worker", "tests/integration/worker")
SMOKE = ("tests/unit/worker", "tests/integration/worker/test_worker_redis.py", "-k", "not restart and not killed")


@dataclass(frozen=True, slots=True)
class Cell:
    """One pair of versions."""

    python: str
    celery: str

    @property
    def name(self) -> str:
        return f"Python {self.python}, Celery {self.celery}"

    @property
    def environment(self) -> Path:
        return OUT / f"py{self.python}-celery{self.celery}"


def version_of(interpreter: str) -> str:
    """``3.12`` for an interpreter that runs; empty for a shim without one, or a path that is none."""
    command = [interpreter, "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def interpreters(named: str) -> dict[str, str]:
    """Version → interpreter: the *named* ones (a PATH-like list) first, then those on the PATH."""
    candidates = [part for part in named.split(os.pathsep) if part]
    for version in PYTHONS:
        for directory in os.environ.get("PATH", "").split(os.pathsep):
            path = Path(directory) / f"python{version}"
            if path.exists():
                candidates.append(str(path))
    found: dict[str, str] = {}
    for candidate in [*candidates, sys.executable]:
        version = version_of(candidate)
        if version in PYTHONS:
            found.setdefault(version, candidate)
    return found


def locked() -> Iterator[str]:
    """``name==version`` of everything that is locked, except what the matrix varies."""
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        match = re.match(r"([a-z0-9.-]+)==(\S+)(?: ; (.*?))?(?: \\)?$", line)
        if match and match[1] not in ("celery", "kombu"):
            yield f"{match[1]}=={match[2]}" + (f" ; {match[3]}" if match[3] else "")


def prepare(cell: Cell, interpreter: str) -> Path:
    """The cell's own interpreter; the environment is made once and kept until the lock changes."""
    python = cell.environment / "bin" / "python"
    stamp = cell.environment / "made-from"
    wanted = (ROOT / "requirements.lock").read_text() + interpreter
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(cell.environment, ignore_errors=True)
    subprocess.run([interpreter, "-m", "venv", str(cell.environment)], check=True)
    constraints = cell.environment / "constraints"
    constraints.write_text("\n".join(locked()) + "\n")
    packages = [f"celery=={cell.celery}.*", f"kombu=={cell.celery}.*", *NEEDED]
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(constraints), *packages],
        check=True,
    )  # fmt: skip
    site = next((cell.environment / "lib").glob("python*/site-packages"))
    (site / "greenworker.pth").write_text(f"{ROOT / 'worker'}\n")
    stamp.write_text(wanted)
    return python


def run(python: Path, arguments: list[str]) -> bool:
    """True if every test passed."""
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    """Runs every cell, also after a failure; ends with a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--full", action="store_true", help="slow tests too")
    parser.add_argument("--smoke", action="store_true", help="the unit tests and a worker's life on Redis only")
    parser.add_argument("--only", default="", metavar="PYTHON-CELERY", help="one cell, as 3.12-5.6")
    options, more = parser.parse_known_args()
    suites = list(SMOKE if options.smoke else SUITES)
    if more and any(not argument.startswith("-") and "tests" in argument for argument in more):
        suites = []
    marks = [] if options.full else ["-m", "not slow"]
    found = interpreters(os.environ.get("WORKER_PYTHONS", ""))
    results: dict[Cell, str] = {}
    for cell in (Cell(python, celery) for python in PYTHONS for celery in CELERIES):
        if options.only and options.only != f"{cell.python}-{cell.celery}":
            continue
        if cell.python not in found:
            results[cell] = "not tested: no such interpreter (name it in WORKER_PYTHONS)"
            continue
        print(f"== {cell.name}", flush=True)
        began = monotonic()
        passed = run(prepare(cell, found[cell.python]), [*suites, *marks, *more])
        results[cell] = f"{'passed' if passed else 'FAILED'} in {monotonic() - began:.0f} s"
    print("\n" + "\n".join(f"{cell.name}: {result}" for cell, result in results.items()), flush=True)
    return int(any(result.startswith("FAILED") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
