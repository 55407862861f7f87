"""The worker's tests on the Pythons and Celerys that it supports: ``python tools/worker_matrix.py [--all] [pytest
arguments]``.

Each pair gets an environment of its own under ``out/matrix``, made from the lock of its Celery
(``requirements/celery-*.lock``, written by ``make lock``). Interpreters: see `tools.interpreters`. A pair without one
is named as not tested, not passed over.

Results are kept in ``out/matrix.json``, one for each pair; ``docs/compatibility.md`` is written from them.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from time import monotonic
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "worker")]

from greenworker.bootstrap.requirements import CELERIES, PYTHONS  # noqa: E402
from tools.interpreters import find_or_make  # noqa: E402

OUT = ROOT / "out" / "matrix"
RESULTS = ROOT / "out" / "matrix.json"
PAGE = ROOT / "docs" / "compatibility.md"
ELSEWHERE = ("versions", "examples", "frameworks", "neighbours", "env_from")
"""Tests that bring environments of their own, or need the operator's packages."""
SUITES = (
    "tests/unit/worker", "tests/integration/worker",
    *(f"--ignore=tests/integration/worker/test_worker_{name}.py" for name in ELSEWHERE),
)  # fmt: skip
SMOKE = ("tests/unit/worker", "tests/integration/worker/test_worker_redis.py", "-k", "not restart and not killed")
PARALLEL = ("--numprocesses", "4")
"""As `make test`: most tests wait."""
SHOWN = ("celery", "kombu", "redis", "eventlet", "greenlet", "amqp")
"""Packages whose versions the page names."""


INTRODUCTION = """\
Each Celery is tested with the kombu of the same number and a redis-py that both accept.
Pin kombu and redis-py in your image as well: `pip install "celery[redis]==5.4.0"` alone takes the newest kombu, which
may refuse the redis-py beside it.
With the oldest Celery, kombu, redis-py and Eventlet are the oldest that the worker accepts.
An image with something older, or without it, is refused at the start: the condition `Stalled` names what was found and
what is needed.

Each cell says how many of the worker's unit and integration tests passed, without the slow ones.
Where it says unit, only the unit tests were run there. They check that each private name of Celery, kombu and Eventlet
that the worker uses is there.
A dash: not run.
""".splitlines()
CLOSING = """\
`make test-matrix` runs the oldest and newest pairs and some between; `make test-matrix ARGS=--all` runs every pair.
CI runs a short form (start, 200 tasks, resize, drain, on both brokers) with
""".splitlines()


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

    @property
    def lock(self) -> Path:
        return ROOT / "requirements" / f"celery-{self.celery}.lock"


CORNERS = (
    Cell("3.10", "5.3"), Cell("3.11", "5.3"), Cell("3.12", "5.5"), Cell("3.13", "5.7"), Cell("3.14", "5.7"),
)  # fmt: skip
OLDEST, NEWEST = CORNERS[0], CORNERS[-1]
EVERY = tuple(Cell(python, celery) for celery in CELERIES for python in PYTHONS)


def prepare(cell: Cell, interpreter: Path) -> Path:
    """The cell's own interpreter; the environment is made once and kept until the lock changes. One process at
    a time.
    """
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / f"{cell.environment.name}.busy").open("w") as busy:
        flock(busy, LOCK_EX)
        python, stamp = cell.environment / "bin" / "python", cell.environment / "made-from"
        wanted = f"{interpreter}\n{ROOT}\n{cell.lock.read_text()}"
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        shutil.rmtree(cell.environment, ignore_errors=True)
        subprocess.run([str(interpreter), "-m", "venv", "--without-pip", str(cell.environment)], check=True)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "--python",
                str(python),
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--require-hashes",
                "-r",
                str(cell.lock),
            ],
            check=True,
        )
        site = next((cell.environment / "lib").glob("python*/site-packages"))
        (site / "greenworker.pth").write_text(f"{ROOT / 'worker'}\n")
        stamp.write_text(wanted)
    return python


def run(cell: Cell, python: Path, arguments: list[str]) -> dict[str, Any]:
    """How many tests passed, and with which versions."""
    report = OUT / f"{cell.environment.name}.xml"
    report.unlink(missing_ok=True)
    began = monotonic()
    command = [
        str(python), "-m", "pytest", "-q", *PARALLEL, "-p", "no:cacheprovider", f"--junitxml={report}", *arguments,
    ]  # fmt: skip
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    return {
        "python": cell.python,
        "celery": cell.celery,
        "versions": versions(python),
        "seconds": round(monotonic() - began),
        "status": status,
        **counts(report),
    }


def counts(report: Path) -> dict[str, Any]:
    """Of pytest's report in JUnit's format. A test that was run once more stands there twice; its last run counts."""
    if not report.exists():
        return {"passed": 0, "failed": 0, "skipped": 0, "failures": ["pytest did not finish"]}
    cases = list(
        {(case.get("classname"), case.get("name")): case for case in ET.parse(report).iter("testcase")}.values()
    )
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(bad) - len(skipped), "failed": len(bad), "skipped": len(skipped),
        "failures": sorted(f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}" for case in bad),
    }  # fmt: skip


def versions(python: Path) -> dict[str, str]:
    """What is installed."""
    code = (
        "import json, platform, sys; from importlib.metadata import version; "
        "print(json.dumps({'python': platform.python_version(), **{name: version(name) for name in sys.argv[1:]}}))"
    )
    command = [str(python), "-c", code, *SHOWN]
    found: dict[str, str] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def summary(result: dict[str, Any]) -> str:
    """One cell of the table."""
    if "passed" not in result:
        return str(result["untested"])
    parts = [f"{result['passed']} {result.get('scope', '')} passed".replace("  ", " ")]
    parts += [f"{result[what]} {what}" for what in ("failed", "skipped") if result[what]]
    return ", ".join(parts)


def page(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The lines of ``docs/compatibility.md``."""
    yield from (
        "# Compatibility",
        "",
        "<!-- Written by tools/worker_matrix.py (make test-matrix). Do not edit. -->",
        "",
        f"The worker runs on Python {PYTHONS[0]} to {PYTHONS[-1]} with Celery {CELERIES[0]} to {CELERIES[-1]}.",
        *INTRODUCTION,
        "",
    )
    yield "| | " + " | ".join(f"Python {python}" for python in PYTHONS) + " |"
    yield "|---" * (len(PYTHONS) + 1) + "|"
    for celery in CELERIES:
        cells = (results.get(Cell(python, celery).environment.name) for python in PYTHONS)
        yield f"| Celery {celery} | " + " | ".join(summary(each) if each else "–" for each in cells) + " |"
    yield from (
        "",
        "What was installed:",
        "",
        "| tested | Python | " + " | ".join(SHOWN) + " |",
        "|---" * (len(SHOWN) + 2) + "|",
    )
    tested = [
        (cell, results[cell.environment.name]) for cell in EVERY if "versions" in results.get(cell.environment.name, {})
    ]
    for cell, result in tested:
        found = result["versions"]
        yield f"| {cell.name} | {found['python']} | " + " | ".join(found[name] for name in SHOWN) + " |"
    failed = [(cell, name) for cell, result in tested for name in result["failures"]]
    if failed:
        yield from ("", "Tests that failed:", "", *(f"- {cell.name}: `{name}`" for cell, name in failed))
    yield from (
        "",
        *CLOSING,
        f"Celery {OLDEST.celery} on Python {OLDEST.python} and Celery {NEWEST.celery} on Python {NEWEST.python},",
        "beside all tests on the versions of `requirements.lock`.",
    )


def main() -> int:
    """Runs every cell, also after a failure; ends with a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--all", action="store_true", help="every pair, not the corners only")
    parser.add_argument("--full", action="store_true", help="slow tests too")
    parser.add_argument("--smoke", action="store_true", help="the unit tests and a worker's life on Redis only")
    parser.add_argument("--unit", action="store_true", help="the unit tests only (they name what a new version lacks)")
    parser.add_argument("--only", default="", metavar="PYTHON-CELERY", help="one cell, as 3.12-5.6")
    parser.add_argument("--page", action="store_true", help="write the page from what is known; run nothing")
    options, more = parser.parse_known_args()
    known: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    whole = not options.smoke and not more
    suites = [SUITES[0]] if options.unit else list(SMOKE if options.smoke else SUITES)
    if any(re.match(r"[^-].*tests", argument) or argument.startswith("tests") for argument in more):
        suites = []
    marks = [] if options.full else ["-m", "not slow"]
    wanted = list(EVERY if options.all or options.only else CORNERS)
    if options.only:
        wanted = [cell for cell in wanted if options.only == f"{cell.python}-{cell.celery}"]
    results: dict[Cell, dict[str, Any]] = {}
    for cell in [] if options.page else wanted:
        print(f"== {cell.name}", flush=True)
        interpreter = find_or_make(cell.python)
        if interpreter is None:
            results[cell] = {"untested": "no such interpreter"}
        else:
            results[cell] = run(cell, prepare(cell, interpreter), [*suites, *marks, *more])
        if options.unit:
            results[cell]["scope"] = "unit"
        if whole and not (options.unit and "scope" not in known.get(cell.environment.name, {"scope": ""})):
            known[cell.environment.name] = results[cell]
            RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    if whole:
        PAGE.write_text("\n".join(page(known)) + "\n")
    print("\n" + "\n".join(f"{cell.name}: {summary(result)}" for cell, result in results.items()), flush=True)
    return int(any(result.get("status") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
