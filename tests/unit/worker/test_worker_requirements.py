"""What is missing in the image, or too old, is said with what was found and what is needed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery
from celery.backends.redis import RedisBackend

from greenworker.bootstrap import launch, settings
from greenworker.bootstrap.requirements import CELERIES, OLDEST, check_versions
from greenworker.brokers.redis.results import ReconnectingConsumer
from greenworker.brokers.url import needs_redis
from greenworker.misconfigured import MisconfiguredError, require

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
    assert f"{needed} is needed" in error.reason, "a sentence, whatever the reason is"
    assert needed in error.fix
    assert "pip install '{}>={}.{}'".format(package, *OLDEST[package]) in error.fix, "redis is no server here"


def test_a_redis_py_that_the_kombu_of_the_image_refuses_is_named_before_it_connects() -> None:
    """What `pip install celery[redis]==5.4.0` and an older pin of redis-py give."""
    found = {**ENOUGH, "celery": "5.4.0", "kombu": "5.7.0", "redis": "5.3.1"}
    with pytest.raises(MisconfiguredError, match=r"kombu 5\.7\.0 needs redis 6\.1 or newer") as caught:
        check_versions(found.get, "eventlet", REDIS)
    assert (caught.value.field, caught.value.value) == ("image", "redis 5.3.1")
    assert "kombu that has Celery's number" in caught.value.fix
    for good in ({"redis": "6.1.0"}, {"kombu": "5.4.2"}, {"kombu": "unknown"}, {"redis": "unknown"}):
        check_versions({**found, **good}.get, "eventlet", REDIS)
    check_versions(found.get, "eventlet", "amqp://rabbit//")


def test_a_module_that_another_one_misses_is_the_one_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy.py").write_text("import not_there_at_all.inner\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MisconfiguredError, match="needy does not import") as caught:
        require("needy", "for a test", "install needy")
    assert caught.value.fix == "add not_there_at_all to the image's requirements: needy needs it"


def test_only_what_is_used_is_needed() -> None:
    check_versions({**ENOUGH, "redis": None}.get, "eventlet", "amqp://rabbit//")
    check_versions({**ENOUGH, "eventlet": None}.get, "prefork", REDIS)


@pytest.mark.parametrize("found", [None, "3.5.3"])
@pytest.mark.parametrize("url", [REDIS, "REDISS://:p@h/1", "sentinel://a:1;sentinel://b:2/0", "redis+socket:///s"])
def test_the_library_of_redis_is_needed_for_results_too(url: str, found: str | None) -> None:
    with pytest.raises(MisconfiguredError, match="the result backend is Redis") as caught:
        check_versions({**ENOUGH, "redis": found}.get, "prefork", "amqp://rabbit//", url)
    assert (caught.value.field, caught.value.value) == ("image", f"redis {found}" if found else "no redis")
    assert "redis 4.5 or newer" in caught.value.fix
    check_versions({**ENOUGH, "redis": found}.get, "prefork", "amqp://rabbit//", "rpc://")


def test_a_scheme_in_capitals_needs_the_library_of_redis() -> None:
    with pytest.raises(MisconfiguredError, match="the broker is Redis"):
        check_versions({**ENOUGH, "redis": None}.get, "eventlet", "REDISS://h/0")


def test_an_app_that_names_redis_for_its_results_itself_is_told_of_the_missing_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "installed", {**ENOUGH, "redis": "3.5.3"}.get)
    with pytest.raises(MisconfiguredError, match="the result backend is Redis"):
        settings.own_result_backends(Celery("proj", backend="redis://:s3cret@h/1", set_as_current=False))


@pytest.mark.parametrize(
    ("url", "on_redis"),
    [
        *((url, True) for url in ("redis://h/1", "rediss://h/1", "REDIS://h/1", "redis", "redis+socket:///run/r.sock")),
        *((url, True) for url in ("sentinel://a:1;sentinel://b:2/0", "proj.Backend+redis://h/1")),
        *((url, False) for url in ("rpc://", "db+postgresql://h/d", "cache+memcached://redis/", "", None)),
    ],
)
def test_whatever_results_on_redis_are_called_they_are_read_through_its_outages(
    monkeypatch: pytest.MonkeyPatch, url: str | None, on_redis: bool
) -> None:
    monkeypatch.setattr(RedisBackend, "ResultConsumer", RedisBackend.ResultConsumer)
    settings.own_result_backends(Celery("proj", backend=url, set_as_current=False))
    assert issubclass(RedisBackend.ResultConsumer, ReconnectingConsumer) == on_redis
    assert needs_redis(url or "") == on_redis


def test_an_old_python_is_said_before_anything_else_is_imported(tmp_path: Path) -> None:
    """The launcher's own file is all that it has to be able to read."""
    source = Path(launch.__file__).read_text()
    ast.parse(source, feature_version=(3, 4))
    log = tmp_path / "termination"
    code = f"""
import runpy, sys
sys.version, sys.version_info = "3.9.18 (main)", (3, 9, 18, "final", 0)
before = set(sys.modules)
import os
leave = os._exit
def exit_with(status):
    print(sorted(set(sys.modules) - before - {{"json", "json.decoder", "json.encoder", "json.scanner", "_json"}}))
    sys.stdout.flush()
    leave(status)
os._exit = exit_with
runpy.run_path({launch.__file__!r}, run_name="__main__")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, check=False, timeout=60,
        env={**os.environ, "GREENWORKER_TERMINATION_LOG": str(log)},
    )  # fmt: skip
    assert ended.returncode == 78, ended.stderr
    said = json.loads(log.read_text())
    assert (said["field"], said["value"]) == ("image", "Python 3.9.18")
    assert "Python 3.10 or newer" in said["reason"]
    assert "worker.python" in said["fix"]
    assert not {"greenworker", "celery", "eventlet"} & set(ast.literal_eval(ended.stdout))
