"""How a model says what JSON Schema cannot: CEL rules.

Kubernetes shows a rule's message as it is, so each message follows one form: field, value, reason, fix.
"""

from __future__ import annotations

from typing import Any

JsonSchema = dict[str, Any]


def rule(expression: str, message: str, *values: str, at: str | None = None) -> JsonSchema:
    """One entry of `x-kubernetes-validations`.

    `message` may hold `%d` and `%s` for the CEL expressions in `values`. They are filled in by CEL's `format`: the API
    server cannot bound the cost of joining strings with `+`, and refuses the whole definition for it.
    `at` is the path of the field to blame, relative to the object that carries the rule.
    """
    entry: JsonSchema = {"rule": expression}
    if values:
        literal = message.replace("'", "\\'")
        entry["messageExpression"] = f"'{literal}'.format([{', '.join(values)}])"
    else:
        entry["message"] = message
    if at:
        entry["fieldPath"] = at
    return entry


def rules(*entries: JsonSchema) -> JsonSchema:
    """Value for `json_schema_extra`: the rules of one object or one field."""
    return {"x-kubernetes-validations": list(entries)}
