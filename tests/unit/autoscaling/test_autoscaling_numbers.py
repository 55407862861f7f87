"""The autoscaler stays small, and every number that it behaves by stands in one file."""

from __future__ import annotations

import ast
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

import greenfleet.autoscaling
from greenfleet.autoscaling import Tuning

PACKAGE = Path(greenfleet.autoscaling.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 2248
MOST_NUMBERS = 30
PLAIN = {0, 1, 2}
"""Nothing, one, and two of something (a half, both, twice)."""
ELSEWHERE = {
    "model.py": "defaults of the resource's fields, the same as in the CRD",
    "explain.py": "digits and units of sentences; what is worth a write to the status",
    "constraints/hpa.py": "percent, as the HPA counts",
}
"""Modules with numbers of another kind, and which kind."""
KNOWN = {
    "estimation/service.py": {0.5, 8},
    "recommendation/workers.py": {1e-9, 1.5},
    "recommendation/__init__.py": {10},
    "validation.py": {100, 1e-9, 1e15},
}
"""Half-lives (0.5 to the power of) and multiples of one in `tuning.py`, guards against rounding and overflow, a bound
on what is remembered.
"""


def numbers(module: Path) -> set[float]:
    found = (node.value for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Constant))
    return {value for value in found if isinstance(value, int | float) and not isinstance(value, bool)} - PLAIN


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_no_number_that_the_autoscaler_behaves_by_stands_outside_of_tuning(module: Path) -> None:
    name = str(module.relative_to(PACKAGE))
    if name != "tuning.py" and name not in ELSEWHERE:
        assert numbers(module) <= KNOWN.get(name, set())


def test_every_number_has_its_unit_and_its_source() -> None:
    body = next(n for n in ast.parse((PACKAGE / "tuning.py").read_text()).body if isinstance(n, ast.ClassDef)).body
    for field, after in pairwise(body):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr), ast.unparse(field)
    counts = [field for field in fields(Tuning) if field.name != "disabled"]
    assert len(counts) <= MOST_NUMBERS


def test_the_package_stays_as_small_as_it_is() -> None:
    assert sum(len(module.read_text().splitlines()) for module in MODULES) <= MOST_LINES
