"""What is missing in the image, or too old, is said with what was found and what is needed."""

from __future__ import annotations

import pytest

from greenworker.bootstrap.requirements import CELERIES, OLDEST, check_versions
from greenworker.misconfigured import MisconfiguredError

REDIS = "redis://redis:6379/0"
ENOUGH = {name: f"{oldest[0]}.{oldest[1]}.0" for name, oldest in OLDEST.items()}


def test_the_oldest_of_each_is_enough() -> None:
    check_versions(ENOUGH.get, "eventlet", REDIS)
    assert CELERIES[0] == "{}.{}".format(*OLDEST["celery"])


@pytest.mark.parametrize(
    ("package", "found"),
    [("celery", "5.2.7"), ("kombu", "5.2.4"), ("eventlet", "0.39.1"), ("redis", "4.4.4")]
    + [(package, None) for package in OLDEST],
)
def test_found_and_needed_are_named(package: str, found: str | None) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        check_versions({**ENOUGH, package: found}.get, "eventlet", REDIS)
    error = caught.value
    assert error.field == "image"
    assert error.value == (f"{package} {found}" if found else f"no {package}")
    needed = f"{package} {OLDEST[package][0]}.{OLDEST[package][1]} or newer"
    assert needed in error.reason
    assert needed in error.fix


def test_only_what_is_used_is_needed() -> None:
    check_versions({**ENOUGH, "redis": None}.get, "eventlet", "amqp://rabbit//")
    check_versions({**ENOUGH, "eventlet": None}.get, "prefork", REDIS)
