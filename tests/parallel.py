"""Which tests run in one process where `-n` starts several."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

from tests.groups import group


class Groups(LoadScopeScheduling):
    """With ``-n``: tests that share a Kubernetes or a file run in one process, one after another. Groups start in the
    order of their first tests (`tests.groups.order`).
    """

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
