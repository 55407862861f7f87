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
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
FORBIDDEN = [one for one in CONTRACTS if one["type"] == "forbidden"]
IO = {"kopf", "kubernetes", "aiohttp", "asyncio", "socket", "prometheus_client"}
FILE = re.compile(r"`((?:[\w-]+/)*[\w-]+\.(?:py|md|yaml|toml)|(?:[\w-]+/)+)`")


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(package: str) -> list[set[str]]:
    """The names in the first column of the table of a package's rooms, by row."""
    lines = [line for line in section(TITLES[package]).splitlines() if line.startswith("| `")]
    return [set(re.findall(r"`(\w+)`", line.split("|")[1])) for line in lines]


def layers(package: str) -> list[set[str]]:
    """Its layers as import-linter checks them, the highest first."""
    (found,) = [one["layers"] for one in CONTRACTS if one.get("containers") == [package] and one["exhaustive"]]
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


def modules(package: str) -> list[str]:
    """Every module, by its dotted name."""
    folder = PACKAGES[package]
    paths = (path.relative_to(folder.parent).with_suffix("") for path in folder.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


def test_a_contract_names_rooms_and_a_new_module_of_one_needs_no_edit() -> None:
    """Only those are named one by one that are free of a contract; that they still have to be is checked too."""
    for contract in FORBIDDEN:
        assert [name for name in contract["source_modules"] if name.count(".") > 1] == [], contract["name"]
        assert contract.get("as_packages", True)
        assert contract.get("unmatched_ignore_imports_alerting", "error") == "error"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_covered_by_a_contract(package: str) -> None:
    rooms = {f"{package}.{room}" for room in set().union(*layers(package), {"__main__"})}
    uncovered = [name for name in modules(package) if name != package and ".".join(name.split(".")[:2]) not in rooms]
    assert not uncovered


def test_every_room_of_the_operator_that_asks_nobody_has_a_contract_that_says_so() -> None:
    """A room that does I/O as a whole has none; one where only some modules do has those as its exceptions."""
    lines = [line.split("|") for line in section(TITLES["greenfleet"]).splitlines() if line.startswith("| `")]
    asks = {room for line in lines if "pure" not in line[3] for room in re.findall(r"`(\w+)`", line[1])}
    pure = {name for one in FORBIDDEN if set(one["forbidden_modules"]) >= IO for name in one["source_modules"]}
    rooms = {name.split(".")[1] for name in modules("greenfleet") if "." in name} - {"__main__"}
    assert rooms - asks <= {name.removeprefix("greenfleet.") for name in pure}
    assert {"greenfleet.controller", "greenfleet.prometheus"} <= pure


def test_each_contract_about_brokers_names_every_broker() -> None:
    folders = {path.parent.name for path in (PACKAGES["greenworker"] / "brokers").glob("*/__init__.py")}
    every = {f"greenworker.brokers.{name}" for name in folders}
    assert len(every) > 1
    lists = [one[part] for one in CONTRACTS for part in ("modules", "forbidden_modules") if part in one]
    about_brokers = [set(names) for names in lists if every & set(names)]
    assert about_brokers == [every, every]
