"""Each part of what is remembered of a pool has one module that writes it."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import greenfleet.controller
from greenfleet.controller.registry import (
    Actuation,
    Autoscaling,
    ExporterState,
    Fleet,
    Reconciliation,
    Record,
    Recycling,
    Report,
)
from greenfleet.manifests.names import Role
from greenfleet.status.findings import Findings

ENGINE = Path(greenfleet.controller.__file__).parent
OWNERS = {
    Record: "registry",
    Reconciliation: "reconciler",
    ExporterState: "exporters",
    Autoscaling: "decider",
    Recycling: "recycler",
    Actuation: "actuator",
    Report: "status_writer",
    Findings: "findings",
}
MUTATES = {"append", "update", "clear", "pop", "setdefault", "add", "discard"}


def owners(name: str) -> set[str]:
    """Who may write a field of this name, whatever part it is of."""
    return {owner for kind, owner in OWNERS.items() if name in {field.name for field in dataclasses.fields(kind)}}


def writes(module: Path) -> Iterator[str]:
    """Attributes of something else than `self` that a module assigns to, deletes from, or calls a mutating
    method of.
    """
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATES:
            targets = [node.func.value]
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                written = part.value if isinstance(part, ast.Subscript) else part
                own = (
                    isinstance(written, ast.Attribute)
                    and isinstance(written.value, ast.Name)
                    and written.value.id == "self"
                )
                if isinstance(written, ast.Attribute) and (not own or module.stem in OWNERS.values()):
                    yield written.attr


@pytest.mark.parametrize("kind", OWNERS, ids=lambda kind: kind.__name__)
def test_what_is_remembered_of_a_pool_is_written_by_its_owner_alone(kind: Any) -> None:
    for field in dataclasses.fields(kind):
        writers = {module.stem for module in ENGINE.glob("*.py") if field.name in set(writes(module))}
        assert writers <= owners(field.name), f"{kind.__name__}.{field.name}"


def test_a_fleet_holds_the_parts_of_several_owners_and_nothing_else() -> None:
    fleet = Fleet(Role.EVENTLET)
    assert {type(getattr(fleet, field.name)) for field in dataclasses.fields(Fleet)} - {Role} <= set(OWNERS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fleet.autoscaling = Autoscaling()  # type: ignore[misc]
