"""What the parts of one worker share has types: mypy is to know what each of them may ask of another."""

from __future__ import annotations

import ast
import inspect

from greenworker import runtime


def attributes_of_any() -> dict[str, str]:
    """The attributes that `Runtime` makes and whose annotation says nothing."""
    tree = ast.parse(inspect.getsource(runtime.Runtime))
    annotated = [node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]
    return {
        ast.unparse(node.target): ast.unparse(node.annotation)
        for node in annotated
        if ast.unparse(node.target).startswith("self.") and ast.unparse(node.annotation) == "Any"
    }


def test_the_pool_and_the_consumer_are_no_any() -> None:
    assert attributes_of_any() == {}
