"""The gates of the charts can stay shut: each is shown something wrong."""

from __future__ import annotations

from typing import Any

import pytest

from charts.gates.checkov_gate import EXPLAINED, Explained, unexplained
from charts.gates.schemas import of_crd, of_openapi

DEFINITIONS: dict[str, Any] = {
    "io.k8s.Thing": {
        "x-kubernetes-group-version-kind": [{"group": "things.example.io", "version": "v1", "kind": "Thing"}],
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "spec": {"$ref": "#/definitions/io.k8s.ThingSpec", "description": "What is wanted."},
        },
    },
    "io.k8s.ThingSpec": {
        "type": "object",
        "properties": {
            "size": {"$ref": "#/definitions/io.k8s.Size"},
            "port": {"type": "string", "format": "int-or-string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "next": {"$ref": "#/definitions/io.k8s.ThingSpec"},
        },
    },
    "io.k8s.Size": {"type": "string", "description": "Quantity is a fixed-point representation of a number. It …"},
    "io.k8s.Other": {"type": "object"},
}


def test_a_schema_is_closed_and_brings_what_it_refers_to() -> None:
    ((name, schema),) = of_openapi(DEFINITIONS)
    assert name == "thing-things-v1.json"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["apiVersion", "kind", "spec"]
    assert schema["properties"]["apiVersion"] == {"const": "things.example.io/v1"}
    assert schema["properties"]["kind"] == {"const": "Thing"}
    assert set(schema["definitions"]) == {"io.k8s.ThingSpec", "io.k8s.Size"}
    spec = schema["definitions"]["io.k8s.ThingSpec"]
    assert spec["additionalProperties"] is False
    assert spec["properties"]["port"] == {"type": ["integer", "string"]}
    assert spec["properties"]["labels"] == {"type": "object", "additionalProperties": {"type": "string"}}
    assert schema["definitions"]["io.k8s.Size"] == {"type": ["number", "string"]}


def test_a_custom_resource_is_closed_except_where_it_says_that_it_is_open() -> None:
    spec = {
        "type": "object",
        "properties": {
            "count": {"type": "integer", "minimum": 1},
            "free": {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "x-kubernetes-preserve-unknown-fields": True,
            },
        },
    }
    version = {"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}
    crd = {"spec": {"group": "example.io", "names": {"kind": "Toy"}, "versions": [version]}}
    ((name, schema),) = of_crd(crd)
    assert name == "toy-example-v1.json"
    closed = schema["properties"]["spec"]
    assert closed["additionalProperties"] is False
    assert closed["properties"]["count"] == {"type": "integer", "minimum": 1}
    assert "additionalProperties" not in closed["properties"]["free"]


def _finding(check: str, kind: str, file: str = "defaults") -> dict[str, Any]:
    name = {"check_id": check, "check_name": "a check", "file_path": f"/{file}.yaml"}
    return {**name, "resource": f"{kind}.greenfleet-system.greenfleet"}


REASONS = [Explained("CKV_1", ("Deployment",), "because", never_in=("production",))]


@pytest.mark.parametrize(
    ("finding", "stands"),
    [
        (_finding("CKV_1", "Deployment"), True),
        (_finding("CKV_1", "Pod"), False),
        (_finding("CKV_1", "Deployment", "production"), False),
        (_finding("CKV_2", "Deployment"), False),
    ],
)
def test_a_finding_stands_only_with_a_reason(finding: dict[str, Any], stands: bool) -> None:
    needed = _finding("CKV_1", "Deployment", "other")
    wrong = unexplained([needed, finding], REASONS)
    assert (wrong == []) is stands


def test_a_reason_that_nothing_needs_is_an_error() -> None:
    assert unexplained([], REASONS) == ["CKV_1 is explained, and nothing needs it any more: remove it"]


def test_every_explanation_has_a_reason_of_some_length() -> None:
    assert all(len(one.reason) > 40 for one in EXPLAINED)
    assert len({one.check for one in EXPLAINED}) == len(EXPLAINED)
