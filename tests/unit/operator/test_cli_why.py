"""`kubectl greenfleet why`: what the leader answers, as sentences."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from greenfleet.autoscaling import decide, initial_state
from greenfleet.autoscaling.model import Adjustment, DecisionReason, Why
from greenfleet.cli import why as cli
from greenfleet.cli.main import main
from greenfleet.controller.web import _first_of_all, _plain
from tests.unit.autoscaling.builders import KNOWN, NOW, SPEC, sample

AT = 1_800_000_000.0
STEPS = (
    Adjustment(DecisionReason.DEADLINE, "workers", 2, 6, "20,000 messages wait and must start within 30 s"),
    Adjustment(DecisionReason.MAX, "workers", 6, 4, "replicas.max is 4"),
    Adjustment(DecisionReason.COOLDOWN, "workers", 4, 4, "idle for 3 s of 300 s", AT + 297),
)
WHY = Why(
    at=AT,
    inputs=(("backlog", 20000.0), ("runtime_seconds", 0.3104), ("replicas", 2.0)),
    adjustments=STEPS,
    binding=DecisionReason.MAX,
    summary="4 workers with 250 green threads each: replicas.max is 4",
)


def answer(**fleet: Any) -> dict[str, Any]:
    """What the operator's port says, on its way through JSON."""
    plain = {
        "replicas": 4,
        "threads": 250,
        "limited": DecisionReason.MAX,
        "now": _plain(WHY),
        "history": [_plain(dataclasses.replace(WHY, at=AT + step, summary=f"step {step}")) for step in range(5)],
        **fleet,
    }
    found: dict[str, Any] = json.loads(json.dumps({"pool": "shop/feeds", "fleets": {"eventlet": plain}}))
    return found


def test_the_answer_says_what_is_wanted_why_and_what_was_seen() -> None:
    text = "\n".join(cli.render(answer(), 0))
    assert "shop/feeds (eventlet): 4 workers × 250 green threads" in text
    assert WHY.summary in text
    assert "· 20,000 messages wait and must start within 30 s" in text
    assert "    messages that wait, of both kinds  20,000\n" in text
    assert "    run time of a task                   0.31 s\n" in text
    assert "step 0" not in text


def test_a_remark_on_the_pool_comes_last_and_an_operator_of_before_has_none() -> None:
    lines = cli.render({**answer(), "remarks": ["spec.queues has 'mials', which does not exist"]}, 0)
    assert lines[-1] == "shop/feeds: spec.queues has 'mials', which does not exist"
    assert not any("mials" in line for line in cli.render(answer(), 0))


def test_what_keeps_a_pool_from_its_size_comes_first() -> None:
    said = {
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "Stalled", "message": "No worker starts."},
            {"type": "Stalled", "status": "True", "reason": "ImagePullBackOff", "message": "The image is not there."},
            {"type": "ScalingActive", "status": "False", "reason": "DryRun", "message": "Nothing is written."},
        ]
    }
    lines = cli.render({**answer(), "conditions": _first_of_all(said)}, 0)
    assert lines[:2] == [
        "shop/feeds: Stalled is True (ImagePullBackOff): The image is not there.",
        "shop/feeds: ScalingActive is False (DryRun): Nothing is written.",
    ]
    assert lines[2:] == cli.render(answer(), 0)
    assert _first_of_all({"conditions": [{**one, "status": "Unknown"} for one in said["conditions"]]}) == []
    assert _first_of_all({}) == []


def test_a_companion_has_processes() -> None:
    fleet = answer()["fleets"]["eventlet"]
    assert "shop/feeds (prefork): 4 workers × 250 processes" in cli.render(
        {"pool": "shop/feeds", "fleets": {"prefork": fleet}}, 0
    )


def test_one_worker_is_one_worker_and_nothing_is_said_twice() -> None:
    alone = Adjustment(DecisionReason.RATE, "workers", 1, 1, "no tasks arrive")
    why = dataclasses.replace(
        WHY, adjustments=(alone,), inputs=(("throughput", 7.5e-9),), summary="1 worker: no tasks arrive"
    )
    text = "\n".join(cli.render(answer(replicas=1, threads=1, now=_plain(why)), 0))
    assert "1 worker × 1 green thread\n" in text
    assert text.count("no tasks arrive") == 1
    assert "throughput  0 tasks/s" in text


def test_every_input_has_a_name_and_a_unit_in_the_table() -> None:
    decision, _ = decide(SPEC, initial_state(KNOWN, NOW - 600), sample(500, busy=20), NOW)
    assert {name for name, _ in decision.why.inputs} <= cli._SEEN.keys()


def test_a_hold_says_until_when() -> None:
    assert any(line.startswith("  · until ") and "idle for 3 s" in line for line in cli.render(answer(), 0))


def test_the_history_comes_youngest_first_and_is_as_long_as_asked_for() -> None:
    lines = cli.render(answer(), 2)
    assert [line.split()[-1] for line in lines[-2:]] == ["4", "3"]


def test_a_fleet_that_nobody_looked_at_yet_is_said_as_such() -> None:
    assert "has not looked" in cli.render(answer(now=None), 3)[0]


def test_a_pool_without_decisions_points_to_describe() -> None:
    assert "kubectl describe gwp" in cli.render({"pool": "shop/feeds", "fleets": {}}, 0)[0]


def test_without_kubectl_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["why", "feeds", "-n", "shop"]) == 1
    assert "kubectl is not on the PATH" in capsys.readouterr().err
