"""What every tier shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the golden files anew instead of comparing with them; read the difference before you commit it",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """A hook of pytest-xdist: who runs which tests."""
    from tests.parallel import Groups

    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test with real processes that fails is run once more, and the closing lines say so (`1 rerun`, with its name):
    beside others on two cores a wait of its own may be too short. What fails twice, or in a tier without processes, or
    loses a task under faults, is red at once.
    """
    for item in items:
        if item.nodeid.startswith(("tests/e2e/", "tests/integration/")):
            item.add_marker(pytest.mark.flaky(reruns=1))
