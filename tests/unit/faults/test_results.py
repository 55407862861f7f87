"""Results are read back from a real backend, here files."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import threading
from pathlib import Path
from time import monotonic

from celery import Celery

from tests.faults.history import Reading
from tests.faults.results import read_back


def test_results_are_read_back_until_all_are_there_or_the_time_is_over(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    backend = Celery("author", backend=url, set_as_current=False).backend
    backend.store_result("id-1", "of t1", "SUCCESS")
    backend.store_result("id-2", ValueError("no"), "FAILURE")
    backend.store_result("id-3", None, "RETRY")
    wanted = {f"t{number}": f"id-{number}" for number in (1, 2, 3, 4)}
    assert sorted(read_back(url, wanted, monotonic()), key=lambda one: one.identity) == [
        Reading("t1", "SUCCESS", "of t1"),
        Reading("t2", "FAILURE", "no"),
    ]
    later = threading.Timer(0.5, lambda: [backend.store_result(f"id-{one}", f"of t{one}", "SUCCESS") for one in (3, 4)])
    later.start()
    assert len(read_back(url, wanted, monotonic() + 30.0)) == 4
    later.join()
    assert read_back(url, {}, monotonic()) == []
