"""The main job, end to end: what `make demo` promises, in its short form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo import timeline as recorded
from demo.pattern import BURST
from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.timeout(1800)  # the first test of a session builds the images

ROOT = Path(__file__).resolve().parents[2]


def test_a_burst_is_met_by_threads_first_then_workers_then_zero_and_nothing_is_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "demo", "run", "--short", "--output", str(tmp_path)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-3000:]
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    print(json.dumps(summary, indent=2))
    assert summary["lost"] == 0
    assert summary["done"] == summary["sent"] > 1000
    assert summary["ended_at_zero"]
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    run = recorded.read(tmp_path / "timeline.jsonl")
    assert run.mark(BURST) is not None
    assert summary["most_workers"] > 1, "the burst was too small to need a second worker: the test shows nothing"
    assert summary["first_worker_seconds"] is not None
    if summary["first_threads_seconds"] is not None:
        assert summary["first_threads_seconds"] <= summary["first_worker_seconds"]
    else:  # the worker had all that it bears when the burst came: learned in an earlier run, not lowered yet
        burst = run.mark(BURST)
        assert burst is not None
        before = [shot for shot in run.snapshots if shot.at <= burst.at][-1]
        assert (
            max(worker.threads for worker in before.workers) >= 0.8 * summary["most_threads"] / summary["most_workers"]
        )
