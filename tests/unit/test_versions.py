"""One answer to which versions run: the worker's own code says it, everything else repeats it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from greenworker.bootstrap.requirements import CELERIES, OLDEST, PYTHONS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_worker_extra_needs_the_oldest() -> None:
    found = {}
    for line in PROJECT["optional-dependencies"]["worker"]:
        name, major, minor = re.match(r"([a-z-]+)(?:\[\w+\])?>=(\d+)\.?(\d*)", line).groups()  # type: ignore[union-attr]
        found[name] = (int(major), int(minor or 0))
    assert {name: found[name] for name in OLDEST} == OLDEST


def test_the_worker_extra_ends_with_the_newest_celery() -> None:
    celery = next(line for line in PROJECT["optional-dependencies"]["worker"] if line.startswith("celery"))
    major, minor = map(int, CELERIES[-1].split("."))
    assert celery.endswith(f",<{major}.{minor + 1}")


def test_the_package_installs_on_the_oldest_python() -> None:
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    prefix = "Programming Language :: Python :: "
    assert tuple(line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(prefix)) == PYTHONS


def test_the_launcher_refuses_what_is_older() -> None:
    source = (ROOT / "worker" / "greenworker" / "bootstrap" / "launch.py").read_text()
    assert f"sys.version_info >= ({PYTHONS[0].replace('.', ', ')})" in source
    assert set(re.findall(r"Python (3\.\d+)", source)) == {PYTHONS[0]}


def test_ruff_reads_the_worker_as_the_oldest_python_does() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["per-file-target-version"]["worker/**"] == "py" + PYTHONS[0].replace(".", "")


def test_the_checks_read_the_worker_with_the_oldest_pythons_library() -> None:
    assert f"mypy --python-version {PYTHONS[0]} worker/greenworker" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "docs/worker.md",
        "docs/compatibility.md",
        "charts/greenfleet/README.md",
        "operator/greenfleet/api/pool.py",
        "crds/greenfleet.io_greenworkerpools.yaml",
    ],
)
def test_texts_for_people_say_the_same(path: str) -> None:
    text = " ".join((ROOT / path).read_text().split())
    assert re.findall(r"Python (3\.\d+) to (3\.\d+)", text) == [(PYTHONS[0], PYTHONS[-1])]
    assert re.findall(r"Celery (5\.\d+) to (5\.\d+)", text) == [(CELERIES[0], CELERIES[-1])]
