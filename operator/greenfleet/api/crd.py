"""The CustomResourceDefinition, made from the models: pydantic's JSON Schema turned into Kubernetes' structural
schema.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from pydantic import BaseModel

from greenfleet.api import API_VERSION, GROUP, KIND, PLURAL, VERSION
from greenfleet.api.pool import PoolSpec
from greenfleet.api.rules import rule, rules
from greenfleet.api.status import PoolStatus

JsonObject = dict[str, Any]

NAME_LIMIT = 50
"""Longest name of a pool: the names and label values of its children must fit into 63 characters."""


def custom_resource_definition() -> JsonObject:
    """The CRD as data."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}", "labels": {"app.kubernetes.io/name": "greenfleet"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["gwp"],
                "categories": ["all"],
            },
            "versions": [_version()],
        },
    }


def render() -> str:
    """The CRD as YAML, the way it lies in `crds/` and in the chart."""
    header = "# Generated from operator/greenfleet/api by `make generate`. Do not edit.\n"
    return header + yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=120, allow_unicode=True)


def _version() -> JsonObject:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.manualReplicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            _column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            _column("Workers", "integer", ".status.replicas"),
            _column("Desired", "integer", ".status.desiredReplicas", "Workers that the load asks for."),
            _column("Threads", "integer", ".status.greenThreads", "Green threads per worker."),
            _column("Backlog", "integer", ".status.backlog", "Messages that wait, rounded."),
            _column("Min", "integer", ".spec.replicas.min"),
            _column("Max", "integer", ".spec.replicas.max"),
            _column(
                "Limited",
                "string",
                '.status.conditions[?(@.type=="ScalingLimited")].status',
                "Whether the load asks for more workers than there may be.",
            ),
            _column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason'),
            _column("Age", "date", ".metadata.creationTimestamp"),
            _column(
                "Metrics",
                "string",
                '.status.conditions[?(@.type=="MetricsAvailable")].message',
                "Whether the load is known; if not, what is missing, and which Prometheus does not answer.",
            ),
            _column("Queues", "string", ".spec.queues", priority=1),
            _column("Oldest", "string", ".status.oldestMessageAge", "How long the oldest message waits.", priority=1),
            _column("Last-Scale", "string", ".status.lastScale.reason", priority=1),
        ],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "A fleet of Celery workers on the Eventlet pool, scaled by green threads first and "
                "workers "
                "second, from the depth of its queues.",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string", "description": API_VERSION},
                    "kind": {"type": "string", "description": KIND},
                    "metadata": {"type": "object"},
                    "spec": _structural(
                        PoolSpec,
                        "What the user wants. app, image, broker and queues are needed; the rest has defaults.",
                    ),
                    "status": _structural(PoolStatus, "What is. Written by the operator only."),
                },
                **rules(
                    rule(
                        f"self.metadata.name.size() <= {NAME_LIMIT}",
                        f"metadata.name has %d characters, more than {NAME_LIMIT}, so that the names of its pods "
                        "would not "
                        "fit: choose a shorter name",
                        "self.metadata.name.size()",
                    ),
                    rule(
                        "!self.metadata.name.contains('.')",
                        "metadata.name is %s, which has a dot, and pods are named after the pool: use hyphens",
                        "self.metadata.name",
                    ),
                ),
            }
        },
    }


def _column(
    name: str, type_: str, path: str, description: str | None = None, priority: int | None = None
) -> JsonObject:
    column: JsonObject = {"name": name, "type": type_, "jsonPath": path}
    if description:
        column["description"] = description
    if priority is not None:
        column["priority"] = priority
    return column


def _structural(model: type[BaseModel], description: str) -> JsonObject:
    schema = model.model_json_schema(by_alias=True)
    return {**_convert(schema, schema.get("$defs", {})), "description": description}


def _convert(node: JsonObject, definitions: JsonObject) -> JsonObject:
    """One JSON Schema node as a structural one: references inlined, nullability and titles dropped."""
    node = _resolve(node, definitions)
    converted: JsonObject = {}
    for key, value in node.items():
        if key == "properties":
            converted[key] = {name: _convert(child, definitions) for name, child in value.items()}
        elif key == "items":
            converted[key] = _convert(value, definitions)
        elif key == "additionalProperties":
            if isinstance(value, dict):
                converted[key] = _convert(value, definitions)
        elif key == "const":
            converted["enum"] = [value]
        elif key not in ("title", "$defs"):
            converted[key] = value
    optional = "default" in converted
    if optional:
        converted["default"] = _without_nulls(converted["default"])
        if converted["default"] is None:
            del converted["default"]
    if optional and "description" in converted and not _SAYS_ITS_DEFAULT.search(converted["description"]):
        converted["description"] += _default_sentence(converted.get("default"))
    if converted.get("x-kubernetes-int-or-string"):
        converted.pop("type", None)
        converted["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return converted


_SAYS_ITS_DEFAULT = re.compile("Default|Absent|Empty")


def _default_sentence(default: Any) -> str:
    """`kubectl explain` does not show defaults, so the descriptions say them. A group has its defaults in its
    fields.
    """
    if default in (None, "", [], {}):
        return " Default: none."
    if isinstance(default, dict):
        return ""
    return f" Default: {json.dumps(default)}." if isinstance(default, bool | list) else f" Default: {default}."


def _without_nulls(value: Any) -> Any:
    """A default as the API server wants it: written out, because CEL rules are tried on it before its children's
    defaults.
    """
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    return value


def _resolve(node: JsonObject, definitions: JsonObject) -> JsonObject:
    """Replaces `$ref`, and `anyOf: [X, null]` by X, keeping what stands beside them."""
    if "anyOf" in node and not node.get("x-kubernetes-int-or-string"):
        alternatives = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
        if len(alternatives) != 1:
            raise TypeError(f"a structural schema has no place for alternatives: {node['anyOf']}")
        beside = {key: value for key, value in node.items() if key != "anyOf"}
        return {**_resolve(alternatives[0], definitions), **beside}
    if "$ref" in node:
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return {**_resolve(target, definitions), **beside}
    return node
