"""docs/architecture.md speaks of the tree as it is: its rooms are all there are, in the order of the import contracts,
and each file that it names exists.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = {"greenfleet": ROOT / "operator" / "greenfleet", "greenworker": ROOT / "worker" / "greenworker"}
TITLES = {"greenfleet": "The operator's rooms", "greenworker": "The worker's rooms"}
BEGINNINGS = [
    *(ROOT, ROOT / "docs", *PACKAGES.values(), *(package.parent for package in PACKAGES.values())),
    *(PACKAGES["greenworker"] / "brokers", PACKAGES["greenfleet"] / "autoscaling"),
    *(PACKAGES["greenworker"] / "exporter", PACKAGES["greenfleet"] / "autoscaling" / "constraints"),
]
"""What the page's paths may begin at: a row of a table names the folder first."""
FILE = re.compile(r"`((?:[\w-]+/)*[\w-]+\.(?:py|md|yaml|toml)|(?:[\w-]+/)+)`")


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(package: str) -> list[set[str]]:
    """The names in the first column of the table of a package's rooms, by row."""
    lines = [line for line in section(TITLES[package]).splitlines() if line.startswith("| `")]
    return [set(re.findall(r"`(\w+)`", line.split("|")[1])) for line in lines]


def layers(package: str) -> list[set[str]]:
    """Its layers as import-linter checks them, the highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (found,) = [one["layers"] for one in contracts if one.get("containers") == [package]]
    return [{name.strip() for name in layer.split("|")} - {"__main__"} for layer in found]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_rooms_are_all_there_are(package: str) -> None:
    folder = PACKAGES[package]
    there = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert set().union(*rows(package)) == there - {"__init__", "__main__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_stands_above_those_that_it_may_import(package: str) -> None:
    order = {room: number for number, layer in enumerate(layers(package)) for room in layer}
    last = 0
    for row in rows(package):
        assert min(order[room] for room in row) >= last, row
        last = max(order[room] for room in row)


def test_every_file_that_the_page_names_exists() -> None:
    named = set(FILE.findall(PAGE))
    assert len(named) > 30
    assert not [name for name in sorted(named) if not any((place / name).exists() for place in BEGINNINGS)]
