"""JSON schemas from the OpenAPI documents that Kubernetes' own releases ship, and from CustomResourceDefinitions.

kubeconform usually downloads schemas that somebody else converted. These come from the Go modules themselves (checksums
below) and are strict: an object with named fields has no others, apiVersion and kind are what they say, and nothing may
be null. A schema brings along the definitions that it refers to, so that recursive ones (a CRD's own) stay whole.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from charts.gates.parts import KUBE, REPOSITORY, GateError, cache

Schema = dict[str, Any]

KUBERNETES = {
    "1.34.4": "h1:Yy6R4QB8C9kJPp25GFqEvX5XQwY5qzKeqD0Xx6oAcmk=",
    "1.35.4": "h1:o/8dBC/pHVpYoGV4OAIytAlNPZbdYVTXJHoYvXC4qzM=",
    "1.36.3": "h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o=",
}
"""Version → checksum of the module `k8s.io/kubernetes`."""

MONITORING = (
    "github.com/prometheus-operator/prometheus-operator@v0.85.0=h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
)
MONITORING_CRDS = tuple(
    f"example/prometheus-operator-crd/monitoring.coreos.com_{plural}.yaml"
    for plural in ("podmonitors", "servicemonitors", "prometheusrules")
)
OWN_CRDS = "crds/*.yaml"


def ensure() -> Path:
    """The directory with the schemas: `v<version>/<kind>-<group>-<version>.json`, and `crds/` for custom resources."""
    own = [path.read_bytes() for path in sorted(REPOSITORY.glob(OWN_CRDS))]
    pins = json.dumps([KUBERNETES, MONITORING]).encode()
    target = cache("schemas", Path(__file__).read_bytes(), pins, *own)
    if target.exists():
        return target
    draft = target.with_name(f"{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    for version, checksum in KUBERNETES.items():
        source = _module(f"k8s.io/kubernetes@v{version}={checksum}") / "api" / "openapi-spec" / "swagger.json"
        _write(draft / f"v{version}", of_openapi(json.loads(source.read_text(encoding="utf-8"))["definitions"]))
    monitoring = _module(MONITORING)
    crds = [*sorted(REPOSITORY.glob(OWN_CRDS)), *(monitoring / name for name in MONITORING_CRDS)]
    for crd in crds:
        _write(draft / "crds", of_crd(yaml.safe_load(crd.read_text(encoding="utf-8"))))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft.rename(target)
    return target


def of_openapi(definitions: Mapping[str, Schema]) -> Iterator[tuple[str, Schema]]:
    """File name and schema of every kind in an OpenAPI v2 document."""
    for definition in definitions.values():
        for identity in definition.get("x-kubernetes-group-version-kind", ()):
            group, version, kind = identity["group"], identity["version"], identity["kind"]
            top = _strict(definition)
            top["properties"] |= _identity(group, version, kind)
            top["required"] = sorted({*top.get("required", ()), "apiVersion", "kind"})
            used = _references(definition, definitions, set())
            top["definitions"] = {other: _strict(definitions[other]) for other in sorted(used)}
            yield _file_name(group, version, kind), top


def of_crd(crd: Schema) -> Iterator[tuple[str, Schema]]:
    """File name and schema of every version of a CustomResourceDefinition."""
    group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
    for version in crd["spec"]["versions"]:
        top = _strict(version["schema"]["openAPIV3Schema"])
        top["properties"] |= _identity(group, version["name"], kind) | {"metadata": {"type": "object"}}
        top["required"] = sorted({*top.get("required", ()), "apiVersion", "kind", "metadata"})
        yield _file_name(group, version["name"], kind), top


def _identity(group: str, version: str, kind: str) -> Schema:
    return {"apiVersion": {"const": f"{group}/{version}" if group else version}, "kind": {"const": kind}}


def _file_name(group: str, version: str, kind: str) -> str:
    """As kubeconform builds it: `{{.ResourceKind}}{{.KindSuffix}}.json`."""
    return "-".join(part.lower() for part in (kind, group.partition(".")[0], version) if part) + ".json"


def _strict(schema: Schema) -> Schema:
    """The same, without what a JSON schema does not know, and closed."""
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    if _is_quantity(schema):
        return {"type": ["number", "string"]}
    kept: Schema = {
        key: schema[key]
        for key in ("type", "required", "enum", "$ref", "minimum", "maximum", "minLength", "maxLength", "pattern")
        if key in schema
    }
    kept |= {key: schema[key] for key in ("minItems", "maxItems", "maxProperties") if key in schema}
    if "items" in schema:
        kept["items"] = _strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = _strict(schema["additionalProperties"])
    if "properties" in schema:
        kept["properties"] = {name: _strict(field) for name, field in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in kept:
            kept["additionalProperties"] = False
    return kept


def _is_quantity(schema: Schema) -> bool:
    return str(schema.get("description", "")).startswith("Quantity is a fixed-point representation of a number.")


def _references(schema: Any, definitions: Mapping[str, Schema], seen: set[str]) -> set[str]:
    """Names of all definitions that a schema needs, directly and through others."""
    if isinstance(schema, Mapping):
        target = schema.get("$ref")
        if isinstance(target, str):
            name = target.removeprefix("#/definitions/")
            if name not in seen:
                seen.add(name)
                _references(definitions[name], definitions, seen)
        for part in schema.values():
            _references(part, definitions, seen)
    elif isinstance(schema, list):
        for part in schema:
            _references(part, definitions, seen)
    return seen


def _write(directory: Path, schemas: Iterator[tuple[str, Schema]]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas:
        (directory / name).write_text(json.dumps(schema), encoding="utf-8")


def _module(pinned: str) -> Path:
    found = subprocess.run([sys.executable, KUBE, "module", pinned], check=False, stdout=subprocess.PIPE, text=True)
    if found.returncode:
        raise GateError(f"the Go module {pinned.partition('=')[0]} cannot be had: what cluster/kube said is above")
    return Path(found.stdout.strip())
