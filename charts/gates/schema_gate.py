"""kubeconform -strict: everything rendered is what three Kubernetes versions and the CRDs in use call valid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from charts.gates.parts import REPOSITORY, GateError, run
from charts.gates.schemas import KUBERNETES

OPERATORS_OWN = ("tests/golden/*.manifests.yaml", "tests/golden/*.pools.yaml", "examples/*.yaml", "crds/*.yaml")
"""What the operator renders, pools as people write them, and the CRD itself."""


def check(kubeconform: Path, schemas: Path, rendered: Sequence[Path]) -> str:
    """One line of what was checked. Raises GateError naming every object that is not valid."""
    own = [path for pattern in OPERATORS_OWN for path in sorted(REPOSITORY.glob(pattern))]
    counts = [conform(kubeconform, schemas, version, [*rendered, *own]) for version in KUBERNETES]
    return f"{counts[0]} objects are valid in Kubernetes {', '.join(KUBERNETES)}"


def conform(kubeconform: Path, schemas: Path, version: str, files: Sequence[Path]) -> int:
    """How many objects there are, all valid. Raises GateError."""
    kind = "{{.ResourceKind}}{{.KindSuffix}}.json"
    locations = ("-schema-location", f"{schemas}/v{version}/{kind}", "-schema-location", f"{schemas}/crds/{kind}")
    said = run([kubeconform, "-strict", "-summary", "-output", "json", *locations, *files], check=False)
    answer = json.loads(said or "{}")
    wrong = [
        f"{one['filename']}: {one['kind']} {one['name']}: {one['msg']} (Kubernetes {version})"
        for one in answer.get("resources") or ()
    ]
    if wrong or not answer:
        raise GateError("\n".join(wrong) or "kubeconform said nothing")
    return int(answer["summary"]["valid"])
