"""The resource as typed models: defaults, identity, and errors for the person who has to act."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from greenfleet.api import parse_pool
from greenfleet.api.crd import custom_resource_definition
from greenfleet.api.pool import InvalidPoolError
from tests.unit.operator.objects import body, pool


def test_the_twelve_line_resource_gets_the_documented_defaults() -> None:
    spec = pool().spec
    assert (spec.green_threads.min, spec.green_threads.max, spec.green_threads.first) == (10, 1000, 100)
    assert spec.green_threads.total is None
    assert (spec.replicas.min, spec.replicas.max, spec.manual_replicas) == (0, 10, 1)
    assert (spec.agent, spec.scaling.mode, spec.scaling.max_wait, spec.scaling.cooldown) == (
        "Inject",
        "Auto",
        "30s",
        "5m",
    )
    assert (spec.scaling.on_missing_metrics.policy, spec.scaling.prometheus.source) == ("Hold", "greenfleet")
    assert (spec.hub_watchdog.warn_after, spec.hub_watchdog.restart_after, spec.drain.timeout) == (
        "100ms",
        "60s",
        "60s",
    )
    assert spec.prefork is None
    assert spec.worker.security_context.run_as_user is None  # the administrator's default, 65532


@pytest.mark.parametrize(
    ("threads", "first"),
    [({}, 100), ({"max": 50}, 50), ({"min": 200}, 200), ({"start": 30}, 30), ({"min": 5, "max": 5}, 5)],
)
def test_the_first_worker_starts_with_100_green_threads_within_the_bounds(threads: dict[str, int], first: int) -> None:
    assert pool(greenThreads=threads).spec.green_threads.first == first


def test_prefork_has_its_own_defaults_and_never_routes_by_itself() -> None:
    prefork = pool(prefork={}).spec.prefork
    assert prefork is not None
    assert (prefork.processes, prefork.replicas.min, prefork.replicas.max, prefork.auto_route) == (2, 0, 2, False)


def test_a_pool_is_known_by_namespace_and_name_and_its_broker_by_secret_and_key() -> None:
    found = pool("feeds", namespace="shop")
    assert (found.key, found.broker_key) == ("shop/feeds", "shop/broker/url")


REDIS = {"transport": "redis", "host": {"value": "redis"}, "password": {"secretKeyRef": {"name": "redis", "key": "pw"}}}


def test_a_broker_in_parts_is_known_by_its_host_and_all_that_its_parts_say() -> None:
    def identity(**parts: Any) -> str:
        return pool(broker={**REDIS, **parts}).spec.broker.identity

    same = pool("other", broker={**REDIS, "keyPrefix": "x:", "metricsPort": 1}).spec.broker.identity
    assert identity() == same == identity(host={"value": "redis"})
    others = [
        identity(),
        identity(host={"value": "redis2"}),
        identity(host={"secretKeyRef": {"name": "redis", "key": "host"}}),
        identity(transport="rediss"),
        identity(port={"value": 6379}),
        identity(port={"value": 6380}),
        identity(path={"value": "0"}),
        identity(path={"value": "1"}),
        identity(username={"value": "0"}),
        identity(password={"secretKeyRef": {"name": "redis", "key": "other"}}),
        identity(password={"secretKeyRef": {"name": "other", "key": "pw"}}),
        pool(broker={"transport": "redis", "host": {"value": "redis"}}).spec.broker.identity,
    ]
    assert len(set(others)) == len(others)
    assert all(re.fullmatch(r"redis2?:[0-9a-f]{10}", one) for one in others), others
    assert pool(namespace="a", broker=REDIS).broker_key == f"a/{identity()}"


def test_no_secret_can_be_named_so_that_it_is_taken_for_a_broker_in_parts() -> None:
    """Both share a namespace of names: that of the exporters."""
    for name, key in (("redis:0123456789", "url"), ("redis", "a/b"), ("redis", "")):
        with pytest.raises(InvalidPoolError):
            pool(broker={"urlFrom": {"secretKeyRef": {"name": name, "key": key}}})
    assert "/" not in pool(broker=REDIS).spec.broker.identity


def test_a_spec_is_a_value_and_cannot_be_changed() -> None:
    assert pool() == pool()
    with pytest.raises(ValueError, match="frozen"):
        pool().spec.app = "other"


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        ({"replicas": {"max": "many"}}, "spec.replicas.max", "'many'"),
        ({"greenThreads": {"min": 0}}, "spec.greenThreads.min", "'0'"),
        ({"queues": []}, "spec.queues", ""),
        ({"queues": ['a"b']}, "spec.queues.0", "'a\"b'"),
        ({"scaling": {"maxWait": "soon"}}, "spec.scaling.maxWait", "'soon'"),
        ({"threads": 5}, "spec.threads", "'5'"),
        ({"broker": {"urlFrom": {"secretKeyRef": {"name": "b"}}}}, "spec.broker.urlFrom.secretKeyRef.key", ""),
        ({"worker": {"resources": {"limits": {"cpu": -1}}}}, "spec.worker.resources.limits.cpu", "'-1'"),
        ({"worker": {"resources": {"limits": {"cpu": "fast"}}}}, "spec.worker.resources.limits.cpu", "'fast'"),
        ({"app": "os; rm -rf /"}, "spec.app", "'os; rm -rf /'"),
    ],
)
def test_an_invalid_spec_is_said_with_field_value_reason_and_fix(spec: dict[str, Any], field: str, value: str) -> None:
    with pytest.raises(InvalidPoolError) as refusal:
        parse_pool(body(**spec))
    text = str(refusal.value)
    assert text.startswith(field + (" is " if value else ":"))
    assert value in text
    assert text.endswith("correct the field and apply again")


WITHIN = json.dumps(custom_resource_definition()).count("choose a duration between them")
OLDER = {
    "broker": {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}, "consumerTimeout": "0s"},
    "scaling": {
        "maxWait": "0s",
        "cooldown": "99999h",
        "schedules": [{"name": "always", "cron": "0 8 * * *", "duration": "166000h", "minReplicas": 1}],
    },
    "hubWatchdog": {"warnAfter": "0ms", "restartAfter": "0s"},
    "taskTimeLimits": {"soft": "0s", "hard": "9999h"},
    "recycle": {"maxAge": "0s"},
    "drain": {"timeout": "999999h"},
}
"""Every duration as it could be written before it had bounds."""


def test_a_pool_that_was_stored_before_durations_had_bounds_keeps_working_within_them() -> None:
    found = parse_pool(body(**OLDER))
    assert len(found.out_of_bounds) == WITHIN
    assert "scaling.maxWait is 0s, not between 1s and 744h, and counts as 1s: choose" in " ".join(found.out_of_bounds)
    spec = found.spec
    assert (spec.scaling.max_wait, spec.scaling.cooldown, spec.drain.timeout) == ("1s", "744h", "744h")
    assert not parse_pool(body()).out_of_bounds


def test_a_pool_that_was_stored_when_except_could_be_longer_keeps_working() -> None:
    ranges = [f"10.{number}.0.0/16" for number in range(32)]
    network = {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ranges}}]}]}
    parsed = parse_pool(body(network=network)).spec.network
    assert parsed is not None
    assert parsed.egress[0].to[0].ip_block is not None
    assert parsed.egress[0].to[0].ip_block.except_ == ranges


def test_an_error_shows_no_more_than_a_glimpse_of_an_enormous_value() -> None:
    with pytest.raises(InvalidPoolError) as refusal:
        parse_pool(body(app="x" * 100_000))
    assert len(str(refusal.value)) < 500


def test_at_most_five_errors_are_listed_at_once() -> None:
    with pytest.raises(InvalidPoolError) as refusal:
        parse_pool(body(queues=["?"] * 20))
    assert str(refusal.value).count("spec.queues.") == 5
