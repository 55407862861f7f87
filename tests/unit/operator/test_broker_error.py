"""What keeps the exporter from a broker, in four parts: field, value, reason, fix."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from greenfleet.autoscaling.model import MetricsIssue, Problem
from greenfleet.controller.registry import Record
from greenfleet.controller.status_builder import compute
from greenfleet.manifests.names import Role
from greenfleet.redaction import redacted
from greenfleet.status import broker_error
from greenfleet.status.broker_error import NAME_SECONDS, message
from greenfleet.status.observed import Observed
from greenworker.exporter.broker_error import KINDS
from tests.unit.operator.objects import Object, pool
from tests.unit.operator.test_status_builder import CREATED, NOW, WELL, conditions, decision, reconciled

PARTS: dict[str, Any] = {
    "transport": "rediss",
    "host": {"value": "cart-rediss"},
    "username": {"value": "cart"},
    "password": {"secretKeyRef": {"name": "redis", "key": "redis-password"}},
}
AMQP = {**PARTS, "transport": "amqp", "path": {"value": "shop"}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broker", [None, PARTS, AMQP])
def test_every_kind_has_a_field_a_value_and_a_fix(kind: str, broker: Object | None) -> None:
    text = message(pool(**({} if broker is None else {"broker": broker})), kind)
    assert text.startswith("broker.")
    assert ": " in text, "a fix"
    assert redacted(text) == text, "nothing in it looks like a password"


def test_an_exporter_that_says_no_kind_or_one_of_the_future_is_only_down() -> None:
    assert message(pool(), "") == message(pool(), "NextYears") == broker_error.UNKNOWN


def test_a_password_that_is_refused_names_the_secret_and_never_what_it_holds() -> None:
    text = message(pool(), "AuthenticationRefused")
    assert text.startswith("broker.urlFrom is the key 'url' of the Secret 'broker', and the broker refuses the user or")
    text = message(pool(broker=PARTS), "AuthenticationRefused")
    assert text.startswith("broker.password is the key 'redis-password' of the Secret 'redis', and the broker refuses")
    assert "broker.username, 'cart'" in text
    assert "guest" not in text
    assert "guest" in message(pool(broker=AMQP), "AuthenticationRefused")
    bare = {name: PARTS[name] for name in ("transport", "host")}
    assert "broker.password is not set" in message(pool(broker=bare), "AuthenticationRefused")


def test_a_name_that_is_not_resolved_names_the_host() -> None:
    assert message(pool(broker=PARTS), "NameNotResolved").startswith(
        "broker.host is 'cart-rediss', and it cannot be resolved in the namespace 'shop': correct it"
    )


def down(kind: str, seconds: float, *, age: float = 3600.0) -> tuple[Record, Observed]:
    """A pool of some *age* whose broker has been down for *seconds*."""
    problem = Problem(MetricsIssue.BROKER_DOWN, message(pool(), kind))
    found = reconciled(decision(metrics_issues=(problem,)))
    found.findings.set_broker_error(kind, CREATED + age - seconds)
    return found, dataclasses.replace(WELL, now=CREATED + age)


@pytest.mark.parametrize(
    "kind", ["AuthenticationRefused", "VirtualHostRefused", "NotAllowed", "TlsFailed", "InvalidUrl"]
)
def test_what_only_a_human_can_mend_stalls_after_three_scrapes(kind: str) -> None:
    for seconds, status in ((10.0, "False"), (16.0, "True")):
        said = conditions(compute(*down(kind, seconds)))
        assert said["Stalled"]["status"] == status
        assert said["MetricsAvailable"]["reason"] == "BrokerDown"
    assert (said["Stalled"]["reason"], said["Stalled"]["message"]) == (f"Broker{kind}", message(pool(), kind))
    assert said["MetricsAvailable"]["message"] == message(pool(), kind)
    assert said["Ready"]["status"] == "False"


def test_a_name_stalls_after_a_minute() -> None:
    for seconds, status in ((NAME_SECONDS - 1, "False"), (NAME_SECONDS + 1, "True")):
        assert conditions(compute(*down("NameNotResolved", seconds)))["Stalled"]["status"] == status


@pytest.mark.parametrize("kind", ["ConnectionRefused", "TimedOut", "Unreachable", "Other", "", "NextYears"])
def test_a_broker_that_is_down_stalls_nothing_however_long(kind: str) -> None:
    assert conditions(compute(*down(kind, 3000.0)))["Stalled"]["status"] == "False"


def test_a_new_pool_with_a_wrong_password_is_told_so_at_once() -> None:
    said = conditions(compute(*down("AuthenticationRefused", 1.0, age=5.0)))["MetricsAvailable"]
    assert (said["status"], said["reason"]) == ("False", "BrokerDown")
    for kind in ("NameNotResolved", "ConnectionRefused"):  # the broker may be as new
        said = conditions(compute(*down(kind, 1.0, age=5.0)))["MetricsAvailable"]
        assert (said["status"], said["reason"]) == ("Unknown", "FirstSamplePending")
        assert said["message"] == f"The pool is new: {message(pool(), kind)}"


def test_a_restart_of_the_operator_does_not_take_the_stall_back_and_a_new_spec_does() -> None:
    found, observed = down("AuthenticationRefused", 60.0)
    found.body["status"] = compute(found, observed)
    found.fleets.clear()
    found.findings.set_broker_error("", observed.now)
    assert conditions(compute(found, observed))["Stalled"]["reason"] == "BrokerAuthenticationRefused"
    changed = dataclasses.replace(observed, generation=2)
    assert conditions(compute(found, changed))["Stalled"]["status"] == "False"
    found.findings.set_broker_error("AuthenticationRefused", observed.now)
    found.fleet(Role.EVENTLET).autoscaling.decision = decision(metrics_issues=(Problem(MetricsIssue.BROKER_DOWN, "x"),))
    assert conditions(compute(found, observed))["Stalled"]["status"] == "True", "the first samples say the same"
    found.findings.set_broker_error("", observed.now)
    assert conditions(compute(found, observed))["Stalled"]["status"] == "False"


def test_how_long_an_error_lasts_counts_from_its_first_report() -> None:
    found = reconciled().findings
    assert found.set_broker_error("TlsFailed", NOW)
    assert not found.set_broker_error("TlsFailed", NOW + 10)
    assert not found.set_broker_error(None, NOW + 20), "no answer of Prometheus is no news of the broker"
    assert (found.broker_error, found.broker_error_since) == ("TlsFailed", NOW)
