"""docs/conformance.md and SECURITY.md name tests that exist: a promise whose proof was renamed away is no promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = "docs/conformance.md"
PAGES = [page for page in (PAGE, "SECURITY.md", "docs/reliability.md") if (REPOSITORY / page).exists()]
SECTIONS = ("The resource", "The chart", "Security")
PROOF = re.compile(r"`(tests/[\w/.-]+\.py)::(\w+)`")
TARGET = re.compile(r"`make ([a-z-]+)`")


def _text(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def _rows(text: str) -> list[tuple[str, str]]:
    """Promise and proof of each row of each table."""
    rows = [line.strip().strip("|").rsplit(" | ", 1) for line in text.splitlines() if line.startswith("| ")]
    return [(row[0].strip(), row[-1].strip()) for row in rows if row[0].strip() != "promise"]


def _tests_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_every_named_test_exists(page: str) -> None:
    named = PROOF.findall(_text(page))
    assert named, f"{page} names no test"
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (REPOSITORY / path).exists() or name not in _tests_in(REPOSITORY / path)
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_named_make_target_exists(page: str) -> None:
    rules = re.findall(r"^([a-z -]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(TARGET.findall(_text(page))) <= {target for rule in rules for target in rule.split()}


def test_every_promise_has_a_proof() -> None:
    unproven = [
        promise for promise, proof in _rows(_text(PAGE)) if not PROOF.search(proof) and not TARGET.search(proof)
    ]
    assert not unproven


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_has_promises(section: str) -> None:
    body = _text(PAGE).split(f"\n## {section}\n")[1].split("\n## ")[0]
    assert _rows(body)
