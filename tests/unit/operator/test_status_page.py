"""Every condition and every reason of one is in the documentation, so that whoever sees one finds it there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from greenfleet.api.status import CONDITION_TYPES
from greenfleet.autoscaling.model import MetricsIssue
from greenfleet.status import broker_error
from greenfleet.status.scaling_conditions import LIMIT_TEXT

REPOSITORY = Path(__file__).resolve().parents[3]
DOCS, OPERATOR = REPOSITORY / "docs", REPOSITORY / "operator" / "greenfleet"
WORD = re.compile(r"[A-Z][a-z]+([A-Z][a-z]*)*")
OF_KUBERNETES = {
    *("ConfigMap", "Deployment", "PodMonitor", "Secret", "True", "False", "Unknown"),
    *("CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "Error", "RunContainerError"),
    *("ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName"),
    *("Failed", "Succeeded", "Available", "ReplicaFailure", "Unschedulable"),
    *("PodReadyToStartContainers", "PodScheduled"),
}
OF_AN_EVENT = {"ManualReplicasIgnored", "OutOfBounds", "TlsNotVerified"}


def _words(module: str) -> set[str]:
    tree = ast.parse((OPERATOR / f"{module}.py").read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if WORD.fullmatch(text)}


def _said(page: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", (DOCS / page).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "module",
    [
        "status/diagnosis",
        "controller/reconciler",
        "controller/registry",
        "controller/status_builder",
        "status/kstatus_conditions",
        "status/metrics_conditions",
        "status/spec_checks",
        "status/scaling_conditions",
        "status/worker_conditions",
    ],
)
def test_every_reason_that_a_condition_can_have_is_documented(module: str) -> None:
    reasons = _words(module) - OF_KUBERNETES - OF_AN_EVENT
    assert reasons
    assert reasons <= _said("resource.md")


def test_every_error_of_a_broker_that_stalls_is_documented() -> None:
    assert {f"{broker_error.PREFIX}{kind}" for kind in broker_error.HUMAN} <= _said("resource.md")
    assert {f"{broker_error.PREFIX}{kind}" for kind in broker_error.HUMAN} <= _said("troubleshooting.md")


def test_every_condition_and_every_limit_is_documented() -> None:
    assert {*CONDITION_TYPES, *map(str, LIMIT_TEXT)} <= _said("resource.md")


def test_every_way_not_to_know_is_documented() -> None:
    assert set(map(str, MetricsIssue)) <= _said("operator.md")
