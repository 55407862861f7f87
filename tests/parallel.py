"""Which tests run in one process where `-n` starts several."""

from __future__ import annotations

from pathlib import PurePath

from xdist.scheduler import LoadScopeScheduling

SHARED = {
    "tests/chaos": "the cluster",
    "tests/e2e": "the cluster",
    "tests/faults/cluster": "the cluster",
    "tests/faults/operator": "a control plane",
    "tests/integration/operator": "a control plane",
    "tests/integration/chart": "a control plane for charts",
}
"""Directories whose tests use the same Kubernetes."""

PURE = ("tests/golden", "tests/property", "tests/unit")
"""Directories whose tests share nothing."""


class Groups(LoadScopeScheduling):
    """With ``-n``: tests that share a Kubernetes or a file run in one process, one after another.

    Groups start in the order of their directories, so that the longest ones are first and pure tests fill the end.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(PURE):
            return nodeid
        file = nodeid.partition("::")[0]
        return SHARED.get(PurePath(file).parent.as_posix(), file)
