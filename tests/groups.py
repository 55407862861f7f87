"""Which tests share something, and which start first."""

from __future__ import annotations

from pathlib import PurePath

SHARED = {
    "tests/chaos": "the cluster",
    "tests/e2e": "the cluster",
    "tests/faults/cluster": "the cluster",
    "tests/faults/operator": "a control plane for faults",
    "tests/integration/chart": "a control plane for charts",
    "tests/integration/operator": "a control plane",
}
"""Directories whose tests use the same Kubernetes."""

LONGEST = ("a control plane for faults", "a control plane", "the cluster")
"""Groups that take longest: they start first."""

PURE = ("tests/golden", "tests/property", "tests/unit")
"""Directories whose tests share nothing."""


def group(nodeid: str) -> str:
    """Tests of one group run in one process, one after another."""
    if nodeid.startswith(PURE):
        return nodeid
    file = nodeid.partition("::")[0]
    return SHARED.get(PurePath(file).parent.as_posix(), file)


def order(nodeid: str) -> int:
    """What starts before what: the longest groups, then the other tests with processes, then pure ones."""
    name = group(nodeid)
    return LONGEST.index(name) if name in LONGEST else len(LONGEST) + nodeid.startswith(PURE)
