"""Everything that can be set in the operator's chart, in one table; values.yaml, its schema and its README come from
it.

    python -m charts.generate            write these three files, the dashboard and the pattern of an interval
    python -m charts.generate --check    fail where one of them differs

The schema is closed: an unknown value is refused at `helm install`, because a misspelt limit that is silently ignored
is worse than an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from charts.dashboard import dashboard_json

CHART = Path(__file__).resolve().parent / "greenfleet"
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_MINUTES, _HOURS = "[1-9][0-9]{0,2}m([1-9][0-9]{0,3}s)?", "([1-9]|1[0-9]|2[0-4])h"
_SHORT = f"[1-9][0-9]{{0,4}}ms|[1-9][0-9]{{0,3}}s|{_MINUTES}"
SCRAPE_INTERVAL = f"^({_SHORT})$"
"""A number and ms, s or m. `files/interval.txt` has it for the templates."""
DURATION = f"^({_SHORT}|{_HOURS})$"
"""What the operator accepts at start: above zero, and up to a day."""
LEASE = f"^([3-9]s|[1-9][0-9]{{1,3}}s|{_MINUTES}|{_HOURS})$"

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
NAMES: Schema = {"type": "array", "items": {"type": "string", "pattern": DNS_LABEL}, "uniqueItems": True}
STRINGS_BY_NAME: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
PULL_POLICY: Schema = {"type": "string", "enum": ["Always", "IfNotPresent", "Never"]}
DIGEST: Schema = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
TAG: Schema = {"type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"}
SPAN: Schema = {"type": "string", "pattern": DURATION}
INTERVAL: Schema = {"type": ["string", "number"]}
"""Which it is, `greenfleet.interval` of the templates looks at: a schema's pattern tells nobody that 5 lacks a unit."""
OPTIONAL_NAME: Schema = {"type": "string", "maxLength": 52, "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"}


def closed(properties: Mapping[str, Schema], *, required: tuple[str, ...] = ()) -> Schema:
    """An object with these properties and no others."""
    schema: Schema = {"type": "object", "additionalProperties": False, "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    return schema


def by_name(item: Schema) -> Schema:
    """An object whose keys the user chooses."""
    return {"type": "object", "additionalProperties": item, "propertyNames": {"pattern": DNS_LABEL}}


SERVER = closed(
    {
        "url": {"type": "string", "pattern": r"^https?://[^\s@?#]+$"},
        "headers": {"type": "object", "additionalProperties": TEXT},
        "queryParameters": {"type": "object", "additionalProperties": TEXT},
        "scrapeInterval": INTERVAL,
        "timeout": SPAN,
        "caFile": TEXT,
        "certFile": TEXT,
        "keyFile": TEXT,
        "insecureSkipVerify": BOOLEAN,
        "bearerTokenFile": TEXT,
        "basicAuth": closed({"usernameFile": TEXT, "passwordFile": TEXT}, required=("usernameFile", "passwordFile")),
    },
    required=("url",),
) | {"dependencies": {"certFile": ["keyFile"], "keyFile": ["certFile"]}}
_SOURCE: dict[str, Schema] = {
    "selector": {"type": "string", "minLength": 1},
    "queueLabel": {"type": "string", "minLength": 1},
    "namespaces": {"type": "array", "items": {"type": "string"}},
}
SOURCES = {
    **by_name(closed(_SOURCE, required=("selector",))),
    "patternProperties": {"^(celery-exporter|rabbitmq|redis-exporter)$": closed(_SOURCE)},
}


@dataclass(frozen=True, slots=True)
class Value:
    """One value: where it is, what it is by default, what it is for, and what it may be."""

    path: str
    default: Any
    description: str
    schema: Schema


def image(path: str, repository: str, what: str, untagged: str = "the chart's appVersion") -> tuple[Value, ...]:
    """The values of one image; `untagged` is what there is without tag and digest."""
    return (
        Value(f"{path}.repository", repository, f"{what}: repository, with its registry.", TEXT | {"minLength": 1}),
        Value(f"{path}.tag", "", f"Tag. Empty: {untagged}.", TAG),
        Value(f"{path}.digest", "", "Digest (`sha256:…`); it wins over the tag.", DIGEST),
        Value(f"{path}.pullPolicy", "IfNotPresent", "`Always`, `IfNotPresent` or `Never`.", PULL_POLICY),
        Value(f"{path}.pullSecrets", [], "Names of pull secrets in the namespace of the pods.", NAMES),
    )


VALUES: tuple[Value, ...] = (
    Value("nameOverride", "", "Replaces the chart's name in labels and names.", OPTIONAL_NAME),
    Value("fullnameOverride", "", "Replaces the whole name of all objects.", OPTIONAL_NAME),
    *image("image", "greenfleet/operator", "The operator's image"),
    *image("workerImage", "greenfleet/worker", "Image of the agent in worker pods and of the queue exporter"),
    Value(
        "replicas",
        2,
        "Operator pods. One leads, the others stand by; 0 stops the operator while pools keep running.",
        {"type": "integer", "minimum": 0, "maximum": 5},
    ),
    Value(
        "scope.namespaces",
        [],
        "Namespaces to look after. Empty: the whole cluster. With names, there is a Role in each and no "
        "ClusterRole at all.",
        NAMES,
    ),
    Value(
        "prometheus.scrapeInterval",
        "",
        "How often Prometheus scrapes workers and exporters, such as `5s`: the bundled one, PodMonitors and the "
        "ServiceMonitor, and every server "
        "that does not say its own. What is stale follows from it. 2s to 15s are good. Empty: 2s for the bundled "
        "Prometheus, 15s for yours.",
        INTERVAL,
    ),
    Value(
        "prometheus.bundled.enabled",
        "auto",
        "A Prometheus of this release, named `bundled`: one pod that scrapes pods labelled `greenfleet.io/scrape` "
        "and keeps two hours of "
        "samples; only the operator may ask it. `auto`: if `servers` is empty; `true`: beside them; `false`: never.",
        {"enum": ["auto", True, False]},
    ),
    *image(
        "prometheus.bundled.image",
        "docker.io/prom/prometheus",
        "Its image, the official one",
        "v3.15.0, by its digest",
    ),
    Value(
        "prometheus.bundled.resources",
        {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "Resources of its container.",
        OBJECT,
    ),
    Value(
        "prometheus.defaultServer",
        "",
        "The server for pools that name none (`spec.scaling.prometheus.server`). Empty: the only one there is, or "
        "that called `default`.",
        {"type": "string", "pattern": f"^$|{DNS_LABEL}"},
    ),
    Value(
        "prometheus.servers",
        {},
        "Your Prometheus servers by name; with one, there is no bundled Prometheus. Per server: `url` without "
        "credentials; `scrapeInterval` if "
        "it is another than `prometheus.scrapeInterval` (PodMonitors ask for the default server's); `timeout` of a "
        "query (4s); "
        "`headers` and `queryParameters` of each request, such as `X-Scope-OrgID`; files, mounted by "
        "`extraVolumes`, for a CA (`caFile`), a "
        "certificate of the operator's own (`certFile`, `keyFile`), a bearer token (`bearerTokenFile`) or basic "
        "authentication "
        "(`basicAuth.usernameFile` and `passwordFile`).",
        by_name(SERVER),
    ),
    Value(
        "prometheus.sources",
        {},
        "More ways to read queue depths, by name: `selector`, a plain series selector that returns all queues at once; "
        "`queueLabel`, the label with the queue's name; and `namespaces`, whose targets may speak for any pool's "
        "queues "
        '(`""`: targets without the label `namespace`), while others speak for pools of their own namespace. Built in: '
        "greenfleet, celery-exporter, rabbitmq, redis-exporter; these need no selector.",
        SOURCES,
    ),
    Value(
        "prometheus.allowQuery", False, "Let a pool bring its own PromQL (`spec.scaling.prometheus.query`).", BOOLEAN
    ),
    Value(
        "prometheus.verifyNamespace",
        True,
        "Believe a sample only if the target label `namespace` agrees with the namespace that it speaks of.",
        BOOLEAN,
    ),
    Value(
        "pods.securityContext",
        {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532},
        "User ids of the pods of all pools (workers, companions, exporters) that say nothing in "
        "`worker.securityContext`. `Image` (of `fsGroup`: `None`), or `null`: the image's own "
        "user, or what OpenShift's restricted-v2 gives. `runAsGroup` counts where the user is a number.",
        closed(
            {
                name: {"anyOf": [{"type": "integer", "minimum": 1}, {"enum": [word, None]}]}
                for name, word in (("runAsUser", "Image"), ("runAsGroup", "Image"), ("fsGroup", "None"))
            }
        ),
    ),
    Value(
        "pods.allowPodTemplatePatch",
        False,
        "Let a pool patch the pod template of its workers (`worker.podTemplatePatch`): sidecars, init containers, "
        "any volume. Read SECURITY.md "
        "first.",
        BOOLEAN,
    ),
    Value("tick", "2s", "How often the scaling loop looks at all pools.", SPAN),
    Value(
        "apiConcurrency",
        16,
        "Requests to the API server under way at once.",
        {"type": "integer", "minimum": 1, "maximum": 256},
    ),
    Value(
        "leaseDuration",
        "15s",
        "After so long without renewal another operator pod may lead.",
        {"type": "string", "pattern": LEASE},
    ),
    Value(
        "logLevel",
        "info",
        "`debug`, `info`, `warning` or `error`.",
        {"type": "string", "enum": ["debug", "info", "warning", "error"]},
    ),
    Value("logFormat", "json", "`json` or `text`.", {"type": "string", "enum": ["json", "text"]}),
    Value("crds.enabled", True, "Install and upgrade the CustomResourceDefinition with this chart.", BOOLEAN),
    Value("crds.keep", True, "Leave it, and with it every pool and worker, when the chart is uninstalled.", BOOLEAN),
    Value("rbac.create", True, "Create roles and bindings.", BOOLEAN),
    Value(
        "rbac.aggregate",
        True,
        "Let whoever may view or edit a namespace view or edit its pools (not with `scope.namespaces`).",
        BOOLEAN,
    ),
    Value("serviceAccount.create", True, "Create the service account.", BOOLEAN),
    Value("serviceAccount.name", "", "Its name. Empty: that of the release.", TEXT),
    Value("serviceAccount.annotations", {}, "Its annotations.", STRINGS_BY_NAME),
    Value(
        "resources",
        {"requests": {"cpu": "100m", "memory": "192Mi"}, "limits": {"memory": "512Mi"}},
        "Resources of the operator's container. Measured with `make bench-operator`: 1,000 pools take 0.074 cores "
        "and 183 MiB. No "
        "CPU limit: a leader that is throttled is late, and may lose its Lease.",
        OBJECT,
    ),
    Value("podDisruptionBudget.enabled", True, "At most one operator pod leaves at a time.", BOOLEAN),
    Value("priorityClassName", "", "Priority class of the operator's pods and of the bundled Prometheus.", TEXT),
    Value("nodeSelector", {}, "Node selector of the operator's pods and of the bundled Prometheus.", STRINGS_BY_NAME),
    Value("tolerations", [], "Tolerations of the operator's pods and of the bundled Prometheus.", OBJECTS),
    Value("affinity", {}, "Affinity of the operator's pods.", OBJECT),
    Value("spread.enabled", True, "Prefer different nodes for the operator's pods.", BOOLEAN),
    Value(
        "spread.topologyKey", "kubernetes.io/hostname", "Node label that tells places apart.", TEXT | {"minLength": 1}
    ),
    Value("podAnnotations", {}, "Annotations of the operator's pods.", STRINGS_BY_NAME),
    Value("podLabels", {}, "Labels of the operator's pods.", STRINGS_BY_NAME),
    Value(
        "podSecurityContext",
        {},
        "Overrides in the pods' security context (default: user 65532, runtime's seccomp profile).",
        OBJECT,
    ),
    Value(
        "terminationGracePeriodSeconds",
        15,
        "Time for giving up the lease.",
        {"type": "integer", "minimum": 1, "maximum": 300},
    ),
    Value("extraEnv", [], "More environment variables of the operator.", OBJECTS),
    Value("extraVolumes", [], "More volumes, such as a CA or a token for Prometheus.", OBJECTS),
    Value("extraVolumeMounts", [], "Where they are mounted.", OBJECTS),
    Value(
        "extraObjects",
        [],
        "More objects of this release; templates in them are rendered.",
        {"type": "array", "items": {"type": ["object", "string"]}},
    ),
    Value(
        "networkPolicy.enabled",
        True,
        "Let nothing into the operator's pods but to the metrics port, and nobody but the operator to the bundled "
        "Prometheus.",
        BOOLEAN,
    ),
    Value(
        "networkPolicy.scrapeFrom",
        [],
        "NetworkPolicy peers that may. Empty: everybody. `kubectl greenfleet why` comes from the API server's address.",
        OBJECTS,
    ),
    Value(
        "networkPolicy.egress",
        [],
        "NetworkPolicy egress rules: the API server and your Prometheus servers. Empty: the operator may talk to "
        "everybody; "
        "with rules, to these, to DNS and to the bundled Prometheus.",
        OBJECTS,
    ),
    Value("metrics.service", True, "A Service for the operator's metrics port.", BOOLEAN),
    Value("metrics.podMonitor.enabled", False, "PodMonitors for the Prometheus operator.", BOOLEAN),
    Value("metrics.podMonitor.pools", True, "One of them for workers and queue exporters of all pools.", BOOLEAN),
    Value(
        "metrics.podMonitor.perPool",
        False,
        "Instead of that one, let the operator make one per pool and per exporter, in the pool's own namespace.",
        BOOLEAN,
    ),
    Value("metrics.podMonitor.labels", {}, "Labels by which your Prometheus selects PodMonitors.", STRINGS_BY_NAME),
    Value(
        "metrics.serviceMonitor.enabled",
        False,
        "A ServiceMonitor for the operator, in place of its PodMonitor. Needs `metrics.service`.",
        BOOLEAN,
    ),
    Value(
        "metrics.serviceMonitor.labels", {}, "Labels by which your Prometheus selects ServiceMonitors.", STRINGS_BY_NAME
    ),
    Value("metrics.prometheusRule.enabled", False, "A PrometheusRule with the alerts of `files/alerts.yaml`.", BOOLEAN),
    Value("metrics.prometheusRule.labels", {}, "Labels by which your Prometheus selects rules.", STRINGS_BY_NAME),
    Value(
        "metrics.prometheusRule.omit",
        [],
        "Names of alerts to leave out.",
        {"type": "array", "items": {"type": "string", "pattern": "^Greenfleet[A-Za-z]+$"}, "uniqueItems": True},
    ),
    Value("metrics.prometheusRule.extraRules", [], "More rules of the same group.", OBJECTS),
    Value("metrics.dashboard.enabled", False, "A ConfigMap with the Grafana dashboard.", BOOLEAN),
    Value(
        "metrics.dashboard.labels",
        {"grafana_dashboard": "1"},
        "Labels by which Grafana's sidecar finds it.",
        STRINGS_BY_NAME,
    ),
    Value("metrics.dashboard.annotations", {}, "Annotations, such as the folder.", STRINGS_BY_NAME),
    Value(
        "operatorPolicy.enabled",
        True,
        "A ValidatingAdmissionPolicy for the operator's own service account: it writes only what is labelled as a "
        "pool's and "
        "owned by one, and nothing in kube-system. It is an object of the whole cluster.",
        BOOLEAN,
    ),
    Value(
        "admissionPolicy.enabled",
        False,
        "A ValidatingAdmissionPolicy with the rules of your organisation for pools. With "
        "`scope.namespaces`, in these only.",
        BOOLEAN,
    ),
    Value(
        "admissionPolicy.actions",
        ["Deny"],
        "What happens to a pool that breaks a rule: `Deny`, or `Warn` and `Audit`.",
        {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"enum": ["Deny", "Warn", "Audit"]}},
    ),
    Value(
        "admissionPolicy.registries",
        [],
        "Where `spec.image` may come from: registries, or repositories in them (`registry.example/team`). Empty: "
        "anywhere.",
        {
            "type": "array",
            "maxItems": 50,
            "items": {"type": "string", "pattern": "^[a-z0-9][A-Za-z0-9._:/-]*[a-z0-9/]$"},
        },
    ),
    Value(
        "admissionPolicy.serviceAccounts",
        [],
        "What `spec.worker.serviceAccountName` may be; a pool that names none has `default`. Empty: any.",
        {"type": "array", "maxItems": 50, "items": {"type": "string", "pattern": DNS_LABEL}},
    ),
    Value(
        "admissionPolicy.queuePrefixes",
        {},
        'What the names of queues must begin with, by namespace: `{shop: ["shop."]}`. The namespace `*` stands for '
        "all that "
        "are not listed.",
        {
            "type": "object",
            "maxProperties": 500,
            "propertyNames": {"pattern": r"^(\*|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)$"},
            "additionalProperties": {
                "type": "array",
                "minItems": 1,
                "maxItems": 20,
                "items": {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]+$", "maxLength": 180},
            },
        },
    ),
    Value(
        "helmTest.pool",
        "",
        "`helm test` waits until this pool is Ready: `namespace/name`. Empty: until all pools are that there are.",
        {"type": "string", "pattern": r"^([a-z0-9][-a-z0-9]*/[a-z0-9][-a-z0-9.]*)?$"},
    ),
    Value("helmTest.timeout", "2m", "How long it waits.", SPAN),
)

Tree = dict[str, Any]
"""Nested values; the leaves are Value."""


def tree() -> Tree:
    """The table, nested by the dots in its paths."""
    root: Tree = {}
    for value in VALUES:
        *groups, name = value.path.split(".")
        place = root
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return root


def values_yaml() -> str:
    """Defaults with their descriptions as comments."""
    lines = ["# Made by charts/generate.py. An unknown value is refused: values.schema.json is closed.", ""]
    lines.extend(_yaml_lines(tree(), ""))
    return "\n".join(lines).rstrip("\n") + "\n"


def _yaml_lines(place: Tree, indent: str) -> Iterator[str]:
    for name, content in place.items():
        if isinstance(content, Value):
            for line in _wrapped(content.description, 116 - len(indent)):
                yield f"{indent}# {line}"
            text = yaml.safe_dump({name: content.default}, sort_keys=False, allow_unicode=True, width=1000)
            for line in text.rstrip("\n").split("\n"):
                yield indent + line.replace("''", '""')
        else:
            yield f"{indent}{name}:"
            yield from _yaml_lines(content, indent + "  ")
        if not indent:
            yield ""


def _wrapped(text: str, width: int) -> Iterator[str]:
    line = ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line


def schema_json() -> str:
    """The closed schema."""
    top = {"$schema": "https://json-schema.org/draft-07/schema#", "title": "Values of the greenfleet chart"}
    schema: Schema = {**top, **_schema(tree())}
    # `prometheus.bundled=false` is refused by the templates (`greenfleet.bundled`), which name the field that is meant.
    schema["properties"]["prometheus"]["properties"]["bundled"]["type"] = ["object", "string", "number", "boolean"]
    schema["properties"]["global"] = {"type": "object", "description": "Helm's own; not used."}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _schema(place: Tree) -> Schema:
    return closed(
        {
            name: {"description": content.description, **content.schema}
            if isinstance(content, Value)
            else _schema(content)
            for name, content in place.items()
        }
    )


def readme_md() -> str:
    """The table for people."""
    intro = (CHART / "README.md.in").read_text(encoding="utf-8")
    rows = ["| value | default | what it is |", "|---|---|---|"]
    for value in VALUES:
        default = json.dumps(value.default, ensure_ascii=False)
        shown = f"`{default}`" if len(default) <= 80 else "see values.yaml"
        rows.append(f"| `{value.path}` | {shown} | {value.description} |")
    return intro.replace("<values>\n", "\n".join(rows) + "\n")


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(
        description="values.yaml, values.schema.json and README.md of the operator's chart"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file differs")
    check = parser.parse_args().check
    stale = []
    for name, content in (
        ("values.yaml", values_yaml()),
        ("values.schema.json", schema_json()),
        ("README.md", readme_md()),
        ("files/dashboard.json", dashboard_json()),
        ("files/interval.txt", f"{SCRAPE_INTERVAL}\n"),
    ):
        path = CHART / name
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        stale.append(name)
        if not check:
            path.write_text(content, encoding="utf-8")
    if check and stale:
        sys.stderr.write(f"{', '.join(stale)} in {CHART.name} differ from charts/generate.py: run it\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
