"""What every tier shares."""

from __future__ import annotations

from pathlib import PurePath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

SHARED = {
    "tests/chaos": "the cluster",
    "tests/e2e": "the cluster",
    "tests/faults/operator": "a control plane",
    "tests/integration/operator": "a control plane",
    "tests/integration/chart": "a control plane for charts",
}
"""Directories whose tests use the same Kubernetes."""

PURE = ("tests/golden", "tests/property", "tests/unit")
"""Directories whose tests share nothing."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the golden files anew instead of comparing with them; read the difference before you commit it",
    )


class Groups(LoadScopeScheduling):
    """With ``-n``: tests that share a Kubernetes or a file run in one process, one after another.

    Groups start in the order of their directories, so that the longest ones are first and pure tests fill the end.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(PURE):
            return nodeid
        file = nodeid.partition("::")[0]
        return SHARED.get(PurePath(file).parent.as_posix(), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    """A hook of pytest-xdist: who runs which tests."""
    config.option.loadscopereorder = False
    return Groups(config, log)
