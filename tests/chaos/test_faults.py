"""The main job under faults: the operator's leader is killed in the burst, and Prometheus is gone for a minute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo import timeline as recorded
from demo.faults import LEADER_KILLED, PROMETHEUS_BACK, PROMETHEUS_GONE, scale_ins_without_metrics
from tests.e2e.conftest import Cluster, cluster  # noqa: F401 - the fixture is shared with the end-to-end tier

pytestmark = pytest.mark.timeout(1800)  # the first test of a session builds the images

ROOT = Path(__file__).resolve().parents[2]


def test_neither_a_dead_leader_nor_a_lost_prometheus_changes_the_result(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    command = [sys.executable, "-m", "demo", "run", "--short", "--faults", "--output", str(tmp_path)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-3000:]
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    print(json.dumps(summary, indent=2))
    run = recorded.read(tmp_path / "timeline.jsonl")
    for mark in (LEADER_KILLED, PROMETHEUS_GONE, PROMETHEUS_BACK):
        assert run.mark(mark) is not None, f"the fault was not injected: {mark}"
    assert scale_ins_without_metrics(run) == []
    assert summary["lost"] == 0
    assert summary["done"] == summary["sent"]
    assert summary["ended_at_zero"]
