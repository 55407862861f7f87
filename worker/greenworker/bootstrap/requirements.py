"""Which versions of what the image has to bring. Asked of the installed packages' metadata, before any of them is
imported. Standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from greenworker.brokers.url import needs_redis
from greenworker.misconfigured import MisconfiguredError

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
"""Versions on which the worker is tested. The launcher has the oldest again: it runs before this can be imported."""

CELERIES = ("5.3", "5.4", "5.5", "5.6", "5.7")
"""With which the worker is tested, each with the kombu of the same number."""

OLDEST = {"celery": (5, 3), "kombu": (5, 3), "eventlet": (0, 40), "redis": (4, 5)}
"""Major and minor; what is tested with the oldest Celery. pyproject.toml has the same, and a test holds them
together.
"""

KOMBU_NEEDS_REDIS = ((5, 7), (6, 1))
"""A kombu, and the redis-py that it and newer ones ask for when they connect (kombu 5.7, `transport/redis.py`). pip
installs another pair if only Celery is pinned.
"""

_REASONS = {
    "celery": "the worker is a Celery worker",
    "kombu": "Celery speaks to the broker through it",
    "eventlet": "green threads need it",
    "redis": "the broker is Redis",
}
"""What each package is needed for."""

RESULTS_ON_REDIS = "the result backend is Redis"
"""The other reason for which redis-py is needed."""


def check_versions(
    version_of: Callable[[str], str | None], role: str, broker_url: str, result_backend: str = ""
) -> None:
    """Raises `MisconfiguredError` for the first package that is missing or too old. *version_of*: a package's version,
    None if it is not there. *role*: eventlet or prefork. The URLs decide whether redis-py is needed.
    """
    wanted = ["eventlet"] if role == "eventlet" else []
    wanted += ["celery", "kombu"]
    if needs_redis(broker_url):
        wanted.append("redis")
    for package in wanted:
        check_version(version_of, package, _REASONS[package])
    if needs_redis(broker_url):
        _check_pair(version_of)
    if needs_redis(result_backend):
        check_version(version_of, "redis", RESULTS_ON_REDIS)


def _check_pair(version_of: Callable[[str], str | None]) -> None:
    """Raises `MisconfiguredError` for a redis-py that the installed kombu refuses."""
    kombu, redis = version_of("kombu") or "", version_of("redis") or ""
    asks, needed = KOMBU_NEEDS_REDIS
    has = _numbers(kombu)
    if has is not None and has >= asks and (_numbers(redis) or needed) < needed:
        needs = f"redis {needed[0]}.{needed[1]} or newer"
        raise MisconfiguredError(
            "image", f"redis {redis}", f"the broker is Redis, and kombu {kombu} needs {needs}",
            f"install {needs} in the image, or the kombu that has Celery's number",
        )  # fmt: skip


def _numbers(version: str) -> tuple[int, int] | None:
    """Major and minor, None where it has none."""
    parts = re.match(r"(\d+)\.(\d+)", version)
    return None if parts is None else (int(parts[1]), int(parts[2]))


def check_version(version_of: Callable[[str], str | None], package: str, reason: str) -> None:
    """Raises `MisconfiguredError` if it is missing or too old; *reason*: what it is needed for."""
    found = version_of(package)
    oldest = OLDEST[package]
    needed = f"{package} {oldest[0]}.{oldest[1]} or newer"
    if found is None or (_numbers(found) or oldest) < oldest:
        raise MisconfiguredError(
            "image", f"{package} {found}" if found else f"no {package}", f"{reason}, and {needed} is needed",
            f"install {needed} in the image for {sys.executable} (pip install '{package}>={oldest[0]}.{oldest[1]}'), "
            "or name the interpreter that has it in worker.python",
        )  # fmt: skip


def installed(package: str) -> str | None:
    """The installed version. Code without metadata, as in a vendored directory, counts as new enough."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - Celery imports it anyway
    from importlib.util import find_spec  # noqa: PLC0415

    if package not in sys.modules and find_spec(package) is None:
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
