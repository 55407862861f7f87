"""The programs of docs/project/upstream.md still show what is reported there, with the versions that are installed.

One that fails here may mean that upstream has mended it: look whether the workaround can go, and take the report out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "project" / "upstream.md").read_text(encoding="utf-8")
REPORTS = [report for report in PAGE.split("\n## ")[1:]]
SAID = {
    "py-amqp: acknowledgements that are ready together": r"1000 writes for 1000 acknowledgements, 21000 bytes",
    "Celery: the heartbeat timer of a green pool": r"3 heartbeat timers for one living connection at most",
    "Celery: a green pool waits for the event dispatcher": r"\d messages a second|1\d messages a second",
}


def test_each_report_has_its_parts() -> None:
    assert len(REPORTS) == len(SAID)
    for report in REPORTS:
        for part in ("**Symptom.**", "**Program.**", "**Patch idea.**", "**Here.**"):
            assert part in report


@pytest.mark.parametrize("title", SAID)
def test_its_program_shows_it(title: str) -> None:
    (report,) = (report for report in REPORTS if report.startswith(title))
    found = re.search(r"```python\n(.+?)```", report, re.DOTALL)
    assert found
    done = subprocess.run([sys.executable, "-c", found[1]], capture_output=True, text=True, check=False, timeout=60)
    assert re.fullmatch(SAID[title], done.stdout.strip()), done.stdout + done.stderr
