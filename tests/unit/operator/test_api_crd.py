"""The CustomResourceDefinition: documented to the last leaf, structural, bounded, and the same as in `crds/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from greenfleet.api import crd
from greenfleet.api.pool import PoolSpec
from greenfleet.api.values import DURATION_PATTERN
from tests.unit.operator.objects import MINIMAL, crd_schema, leaves

REPOSITORY = Path(__file__).resolve().parents[3]
SPEC = list(leaves(crd_schema("spec"), "spec"))
STATUS = list(leaves(crd_schema("status"), "status"))
CONTAINERS_OF_PLAIN_VALUES = ("[]", "{}")


@pytest.mark.parametrize("fields", [SPEC, STATUS], ids=["spec", "status"])
def test_every_field_has_a_description(fields: list[tuple[str, dict[str, Any]]]) -> None:
    missing = [
        path
        for path, schema in fields
        if not schema.get("description") and not path.endswith(CONTAINERS_OF_PLAIN_VALUES)
    ]
    assert not missing
    assert len(SPEC) > 120  # that nothing is missing means nothing if nothing was found


def test_every_optional_field_says_its_default() -> None:
    """`kubectl explain` shows no defaults of its own. A group of fields has them in the fields."""
    silent = [
        path
        for path, schema in _optional(crd_schema("spec"), "spec")
        if not re.search(r"Default|Absent|Empty", schema["description"])
        and not (schema.get("default") and schema.get("properties"))
    ]
    assert not silent


def test_every_duration_and_amount_of_memory_shows_how_it_is_written() -> None:
    """With its unit: an example, or its default."""
    written = [
        (path, schema["description"])
        for path, schema in SPEC
        if schema.get("type") == "string" and re.search(r"\(ms\|s\|m\|h\)|\|Mi\|", schema.get("pattern", ""))
    ]
    assert len(written) >= 10
    assert not [path for path, text in written if not re.search(r"\b[0-9]+(ms|s|m|h|Mi|Gi)\b", text)]


UNITS = r"threads|workers|processes|messages|seconds|tasks|pods|domains|port|id of|group|bits|from 1 to 100"


def test_every_number_says_what_it_counts() -> None:
    numbers = [(path, schema.get("description", "")) for path, schema in SPEC if schema.get("type") == "integer"]
    assert len(numbers) >= 20
    silent = [path for path, text in numbers if not re.search(UNITS, text, re.IGNORECASE)]
    assert silent == ["spec.broker.prioritySteps[]"], "priorities count nothing"


def _optional(schema: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    """The fields that a user may leave out, with their paths."""
    found = []
    for name, child in (schema.get("properties") or {}).items():
        if name not in schema.get("required", ()):
            found.append((f"{path}.{name}", child))
        found += _optional(child, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        found += _optional(schema["items"], f"{path}[]")
    return found


def test_nothing_in_the_spec_is_open() -> None:
    """A field that kept unknown ones would let a misspelt rule through, and have no bounds. A patch is open by its
    nature.
    """
    patch = "spec.worker.podTemplatePatch"
    assert [path for path, schema in [*SPEC, *STATUS] if schema.get("x-kubernetes-preserve-unknown-fields")] == [patch]
    assert [path for path, schema in SPEC if schema.get("type") == "object" and not _fields(schema)] == [patch]


def _fields(schema: dict[str, Any]) -> bool:
    return bool(schema.get("properties") or schema.get("additionalProperties"))


def test_every_object_in_a_list_has_described_fields() -> None:
    for path, schema in SPEC:
        if schema.get("type") == "object" and path.endswith("[]"):
            assert schema.get("properties"), path


def test_the_schema_is_structural() -> None:
    for path, schema in [*SPEC, *STATUS]:
        assert "$ref" not in schema, path
        assert "oneOf" not in schema, path
        assert "allOf" not in schema, path
        assert "title" not in schema, path
        if schema.get("x-kubernetes-int-or-string"):
            assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
        else:
            assert "anyOf" not in schema, path
            assert isinstance(schema.get("type"), str), path
        if "additionalProperties" in schema:
            assert "properties" not in schema, path


def test_every_string_number_list_and_map_is_bounded() -> None:
    unbounded = []
    for path, schema in [*SPEC, *STATUS]:
        kind = schema.get("type")
        bounded = {
            "string": "maxLength" in schema or "enum" in schema,
            "integer": "minimum" in schema and "maximum" in schema,
            "array": "maxItems" in schema,
            "boolean": True,
            "object": "properties" in schema or "maxProperties" in schema,
        }
        if schema.get("x-kubernetes-int-or-string"):
            assert {"minimum", "maxLength", "pattern"} <= schema.keys(), path
        elif not bounded[kind]:
            unbounded.append(path)
    assert not unbounded


def test_every_default_is_valid_and_the_api_servers_defaulting_changes_nothing_for_the_operator() -> None:
    schema = crd_schema("spec")
    defaulted = _with_defaults({key: value for key, value in MINIMAL.items()}, schema)
    assert PoolSpec.model_validate(defaulted) == PoolSpec.model_validate(MINIMAL)
    with_everything = {**MINIMAL, "prefork": {}, "worker": {"volumes": [{"name": "v", "emptyDir": {}}]}}
    assert PoolSpec.model_validate(_with_defaults(with_everything, schema)) == PoolSpec.model_validate(with_everything)


def _with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """What the API server makes of an object: defaults filled in from the top."""
    if isinstance(value, dict) and "properties" in schema:
        filled = {
            name: child["default"]
            for name, child in schema["properties"].items()
            if "default" in child and name not in value
        }
        merged = {**value, **filled}
        return {name: _with_defaults(one, schema["properties"].get(name, {})) for name, one in merged.items()}
    if isinstance(value, list) and "items" in schema:
        return [_with_defaults(one, schema["items"]) for one in value]
    return value


def test_every_default_obeys_its_own_bounds() -> None:
    for path, schema in SPEC:
        default = schema.get("default")
        if isinstance(default, str):
            assert len(default) <= schema.get("maxLength", 10**9), path
            assert re.search(schema.get("pattern", ""), default), path
            assert default in schema.get("enum", [default]), path
        if isinstance(default, int) and not isinstance(default, bool):
            most = default if schema.get("x-kubernetes-int-or-string") else schema["maximum"]
            assert schema["minimum"] <= default <= most, path


def test_every_rule_names_field_value_and_fix() -> None:
    root = crd.custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    found = [rule for _, schema in [("", root), ("spec", crd_schema("spec")), *SPEC] for rule in _rules(schema)]
    assert len(found) >= 8
    for rule in found:
        text = rule.get("message") or rule["messageExpression"]
        assert re.search(r"[a-z]+\.[a-zA-Z]+", text), text  # a field
        assert ":" in text, text  # what is wrong: what to do
        assert "messageExpression" not in rule or "'.format([" in rule["messageExpression"]


FREE_TEXT = {
    "spec.worker.env[].value",  # the app's own
    "spec.worker.envFrom[].prefix",
    "spec.worker.annotations{}",
    "spec.worker.extraArgs[]",
    "spec.worker.wrapper[]",
    "spec.prefork.env[].value",
    "spec.exporter.annotations{}",
    "spec.worker.volumeMounts[].subPath",
    "spec.scaling.prometheus.query",  # where the administrator allows it: Prometheus reads it
}
"""Strings of the spec without a pattern. The last three have rules of their own, or are read by somebody else."""


def test_every_string_that_somebody_reads_later_has_a_pattern() -> None:
    """What is written wrong is refused at once, not by the API server's second look, kubelet, or the worker."""
    free = {
        path
        for path, schema in SPEC
        if schema.get("type") == "string" and "enum" not in schema and "pattern" not in schema
    }
    assert {path for path in free if not path.endswith("values[]")} == FREE_TEXT


def test_every_duration_has_a_bound() -> None:
    durations = [(path, schema) for path, schema in SPEC if schema.get("pattern") == DURATION_PATTERN]
    assert len(durations) >= 10
    for path, schema in durations:
        bounds = [rule["rule"] for rule in _rules(schema)]
        assert any("duration(self) >=" in rule and "duration(self) <=" in rule for rule in bounds), path
        assert any(path.removeprefix("spec.").replace("[]", "") in str(rule) for rule in _rules(schema)), path


def _rules(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return list(schema.get("x-kubernetes-validations", []))


def test_the_pool_can_be_scaled_listed_and_waited_for_like_a_deployment() -> None:
    version = crd.custom_resource_definition()["spec"]["versions"][0]
    assert version["subresources"]["scale"] == {
        "specReplicasPath": ".spec.manualReplicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    columns = [column["name"] for column in version["additionalPrinterColumns"]]
    assert columns[:11] == [
        *("Ready", "Workers", "Desired", "Threads", "Backlog", "Min", "Max", "Limited", "Reason", "Age", "Metrics")
    ]
    conditions = crd_schema("status")["properties"]["conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])


ATOMIC = {
    "spec.broker.prioritySteps",  # kombu's order
    "spec.worker.extraArgs",  # a command line
    "spec.worker.envFrom",  # a later one counts more, as in a pod
    "spec.worker.wrapper",  # a command line
    "spec.worker.tolerations",  # as in a pod
    "spec.prefork.tolerations",
    "spec.exporter.tolerations",
    "spec.scaling.behavior.scaleUp.policies",  # as in an HPA
    "spec.scaling.behavior.scaleDown.policies",
    "spec.network.egress",  # as in a NetworkPolicy
}


def test_every_list_that_can_have_a_key_has_one() -> None:
    """Below affinity, egress and label selectors lists are atomic, as Kubernetes has them."""
    lists = {
        path: schema.get("x-kubernetes-list-type")
        for path, schema in SPEC
        if schema.get("type") == "array" and "[]" not in path and ".affinity" not in path
    }
    assert {path for path, kind in lists.items() if kind is None} == ATOMIC
    assert {path for path, kind in lists.items() if kind == "map"} == {
        *("spec.imagePullSecrets", "spec.scaling.schedules", "spec.worker.env", "spec.worker.volumes"),
        *("spec.worker.volumeMounts", "spec.worker.topologySpreadConstraints"),
        *("spec.prefork.env", "spec.prefork.topologySpreadConstraints"),
    }


@pytest.mark.parametrize("path", ["crds/greenfleet.io_greenworkerpools.yaml"])
def test_the_generated_file_is_up_to_date(path: str) -> None:
    assert (REPOSITORY / path).read_text(encoding="utf-8") == crd.render(), "run `make generate`"
