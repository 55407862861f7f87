"""No value is there that no value file tries: each leaf of the schema is set in one of them, and what helm writes shows
it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.charts.rendering import CHARTS, RenderText

Path_ = tuple[str, ...]
"""Names from the top; `*` stands for names that the user chooses."""

FILES = {
    file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    for file in sorted((Path(__file__).parent / "values").glob("*.yaml"))
}
DEFAULTS = yaml.safe_load((CHARTS / "greenfleet" / "values.yaml").read_text(encoding="utf-8"))
NOT_TRIED = {"global": "helm gives it to every chart; this one does not read it"}
"""Values that no value file need set, each with the reason."""


REQUIRED = {
    ("prometheus", "sources", "*", "selector"): "another",
    ("prometheus", "servers", "*", "url"): "http://another:9090",
    ("prometheus", "servers", "*", "certFile"): "/another/tls.crt",
    ("prometheus", "servers", "*", "keyFile"): "/another/tls.key",
    ("prometheus", "servers", "*", "basicAuth", "usernameFile"): "/another/user",
    ("prometheus", "servers", "*", "basicAuth", "passwordFile"): "/another/password",
}
"""Leaves that have no default and cannot be left out, each with another value."""


def _leaves(schema: dict[str, Any], path: Path_ = ()) -> Iterator[Path_]:
    below = schema.get("additionalProperties")
    if "properties" in schema:
        for name, child in schema["properties"].items():
            yield from _leaves(child, (*path, name))
    elif isinstance(below, dict) and "properties" in below:
        yield from _leaves(below, (*path, "*"))
    else:
        yield path


SCHEMA = json.loads((CHARTS / "greenfleet" / "values.schema.json").read_text(encoding="utf-8"))
LEAVES = [path for path in _leaves(SCHEMA) if ".".join(path) not in NOT_TRIED]


def _holders(values: Any, path: Path_) -> list[dict[str, Any]]:
    """The objects in which the last name of a path is set."""
    places = [values]
    for name in path[:-1]:
        objects = [place for place in places if isinstance(place, dict)]
        places = [below for place in objects for key, below in place.items() if name in ("*", key)]
    return [place for place in places if isinstance(place, dict) and path[-1] in place]


def _usual(path: Path_) -> list[Any]:
    return [holder[path[-1]] for holder in _holders(DEFAULTS, path)]


def _file_that_sets(path: Path_) -> str | None:
    """The first that sets the leaf to something else than its default."""
    usual = _usual(path)
    setting = (
        name
        for name, values in FILES.items()
        if any(holder[path[-1]] not in usual for holder in _holders(values, path))
    )
    return next(setting, None)


def _without(values: dict[str, Any], path: Path_) -> dict[str, Any]:
    """The same values with the default of one leaf, or without it where it has none, or with another where it needs
    one.
    """
    found, usual = copy.deepcopy(values), _usual(path)
    for holder in _holders(found, path):
        if usual:
            holder[path[-1]] = usual[0]
        elif path in REQUIRED:
            holder[path[-1]] = REQUIRED[path]
        else:
            del holder[path[-1]]
    return found


@pytest.fixture(scope="module")
def written(render_text: RenderText) -> dict[str, str]:
    """What helm makes of each value file."""
    return {name: render_text("greenfleet", values, tests=True) for name, values in FILES.items()}


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_every_value_is_tried_by_a_value_file_and_changes_what_is_rendered(
    path: Path_, written: dict[str, str], render_text: RenderText
) -> None:
    name = _file_that_sets(path)
    assert name is not None, f"no file in values/ sets {'.'.join(path)} to something else than its default"
    assert render_text("greenfleet", _without(FILES[name], path), tests=True) != written[name]


def test_what_need_not_be_tried_is_still_there() -> None:
    assert NOT_TRIED.keys() <= {".".join(path) for path in _leaves(SCHEMA)}
