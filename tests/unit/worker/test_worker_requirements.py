"""What the worker asks of an image is what the project says it needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from greenworker.requirements import OLDEST


def test_the_oldest_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())
    found = {}
    for line in project["project"]["optional-dependencies"]["worker"]:
        name, major, minor = re.match(r"([a-z-]+)(?:\[\w+\])?>=(\d+)\.?(\d*)", line).groups()  # type: ignore[union-attr]
        found[name] = (int(major), int(minor or 0))
    assert {name: found[name] for name in OLDEST} == OLDEST
