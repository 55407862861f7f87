"""What every tier shares.

Hypothesis has two profiles: quick by default, `HYPOTHESIS_PROFILE=long` (make test-property-long) for ≥ 10,000 traces.
The quick one tries the same examples every time, so that a red run is red for the next person too; the long one
explores. Neither has a time limit for one example: a busy machine is no defect.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.groups import order

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

settings.register_profile(
    "quick", max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.register_profile("long", max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


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
    """The longest groups come first (`tests.groups.order`).

    A test with real processes that fails is run once more, and the closing lines say so (`1 rerun`, with its name):
    beside others on two cores a wait of its own may be too short. What fails twice, or in a tier without processes, or
    loses a task under faults, is red at once.
    """
    items.sort(key=lambda item: order(item.nodeid))
    for item in items:
        if item.nodeid.startswith(("tests/e2e/", "tests/integration/")):
            item.add_marker(pytest.mark.flaky(reruns=1))
