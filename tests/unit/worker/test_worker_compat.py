"""The private names of other libraries that the worker relies on exist in the version that is installed, and are called
as we call them.

``make test-matrix`` runs this on each supported version.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import greenworker
from greenworker.compat import PRIVATE, Private

PACKAGE = Path(greenworker.__file__).parent
STANDARD = {"_current_frames", "_exit"}
"""Private names of the standard library's ``sys`` and ``os``."""

LIBRARIES = {"celery", "kombu", "amqp", "redis", "billiard", "eventlet"}


def release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def is_expected(private: Private) -> bool:
    library = private.where.split(".", maxsplit=1)[0].split(":")[0]
    return not private.since or release(version(library)) >= release(private.since)


def sets(kind: type, name: str) -> bool:
    """Whether the code of a class assigns to such an attribute."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    return any(
        isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Store)
        for node in ast.walk(tree)
    )


def look_up(private: Private) -> Any:
    """The object; True for an attribute that the code of its class, or of a base, sets. Raises AttributeError."""
    module_name, _, path = private.where.partition(":")
    module = import_module(module_name)
    found: Any = module
    for part in path.split("."):
        if hasattr(found, part):
            found = getattr(found, part)
            continue
        if any(sets(each, part) for each in getattr(found, "__mro__", ()) if each is not object):
            return True
        raise AttributeError(f"{private.where} is gone; the worker needs it because: {private.reason}")
    return found


@pytest.mark.parametrize("private", PRIVATE, ids=lambda private: private.where)
def test_it_exists_and_is_called_as_we_call_it(private: Private) -> None:
    if not is_expected(private):
        with pytest.raises(AttributeError):
            look_up(private)
        return
    found = look_up(private)
    if private.parameters is None:
        return
    named = [
        each.name
        for each in inspect.signature(found).parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) and each.name != "self"
    ]
    assert tuple(named[: len(private.parameters)]) == private.parameters, private.reason


@pytest.mark.parametrize(
    "broken",
    [
        Private("kombu.messaging:Consumer._no_such_tags", "it was renamed"),
        Private("kombu.transport.redis:Transport._in_protected_read", "only another class has it"),
        Private("kombu.messaging:Consumer._receive_callback", "it was changed", ("channel", "message")),
    ],
    ids=["renamed", "moved", "changed"],
)
def test_a_new_version_fails_by_name(broken: Private) -> None:
    with pytest.raises((AttributeError, AssertionError), match=broken.reason):
        test_it_exists_and_is_called_as_we_call_it(broken)


def test_there_is_no_other_private_name_in_the_worker() -> None:
    listed = {private.name for private in PRIVATE} | STANDARD
    own: set[str] = set()
    used: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            own |= defined_by(node)
            name = private_name_in(node)
            if name:
                used.setdefault(name, f"{path.name}:{node.lineno}")  # type: ignore[attr-defined]
    unlisted = {name: place for name, place in used.items() if name not in listed | own}
    assert not unlisted, f"add them to PRIVATE in compat.py: {unlisted}"


def test_a_private_method_of_a_library_that_is_overridden_is_listed() -> None:
    """In a process of its own: one of the worker's modules patches the standard library when it is imported."""
    found = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import overridden; print(*sorted(overridden()))"],
        cwd=Path(__file__).parents[3], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.split()  # fmt: skip
    assert len(found) > 10, "the test sees them"
    listed = {private.name for private in PRIVATE}
    assert not [name for name in found if name.rpartition(".")[2] not in listed], "add them to PRIVATE in compat.py"


def overridden() -> set[str]:
    """Private methods of libraries' classes that the worker's classes have, too."""
    return {
        f"{kind.__module__}.{kind.__name__}.{name}"
        for kind in classes()
        for name, found in vars(kind).items()
        if name.startswith("_") and not name.startswith("__") and callable(found)
        if any(hasattr(base, name) for base in kind.__mro__[1:] if base.__module__.partition(".")[0] in LIBRARIES)
    }


def classes() -> Iterator[type]:
    """All of the worker's."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if not path.stem.startswith("__"):
            module = import_module(".".join(("greenworker", *path.relative_to(PACKAGE).with_suffix("").parts)))
            yield from (
                each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__
            )


def defined_by(node: ast.AST) -> set[str]:
    """Names that the worker gives itself."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    else:
        return set()
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    mine = (target for target in targets if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name))
    return names | {target.attr for target in mine if target.value.id == "self"}  # type: ignore[attr-defined]


def private_name_in(node: ast.AST) -> str:
    """``_name`` of ``x._name`` and of ``getattr(x, "_name")``."""
    name = ""
    if isinstance(node, ast.Attribute):
        name = node.attr
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr", "setattr")
    ):
        name = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else ""
    return name if name.startswith("_") and not name.startswith("__") else ""
