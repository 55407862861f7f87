"""Finished runs as lines of JSON, so that an evaluation of an hour goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import greenfleet
from greenfleet.simulator.totals import Outcome, RunKey

PACKAGE = Path(greenfleet.__file__).parent


@dataclass(frozen=True, slots=True)
class Job:
    """One run to do: one autoscaler on one trace. The trace is named by its set, so that a process can make it
    itself.
    """

    autoscaler: str
    set: str
    trace: str
    seed: int
    scrape_seconds: float


def digest(autoscaler: str) -> str:
    """Of the code that the outcome depends on; an autoscaler of others does not depend on Greenfleet's but for
    the HPA's rules.
    """
    folders = ["simulator", "autoscaling"] if autoscaler.startswith("greenfleet") else ["simulator"]
    files = [
        path for folder in folders for path in sorted((PACKAGE / folder).rglob("*.py")) if path.name not in _OUTPUT
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


_OUTPUT = {"cli.py", "plot.py", "report.py", "totals.py", "__main__.py"}


class Store:
    """A file of outcomes. Lines of other code are kept and not used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests: dict[str, str] = {}
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            path.write_bytes(path.read_bytes() + b"\n")  # an interrupted run left half a line
        self.found: dict[Job, Outcome] = {}
        for line in self._lines():
            job = Job(**line["job"])
            if line["digest"] == self._digest(job.autoscaler):
                self.found[job] = Outcome(**line["outcome"])

    def _lines(self) -> Iterator[dict[str, dict[str, object]]]:
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue  # the last line of a run that was interrupted

    def _digest(self, autoscaler: str) -> str:
        kind = "greenfleet" if autoscaler.startswith("greenfleet") else "others"
        return self._digests.setdefault(kind, digest(autoscaler))

    def add(self, job: Job, outcome: Outcome) -> None:
        """Remember a finished run, on disk too."""
        self.found[job] = outcome
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"job": asdict(job), "digest": self._digest(job.autoscaler), "outcome": asdict(outcome)}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, autoscaler: str, name: str, scrape_seconds: float) -> dict[RunKey, Outcome]:
        """All outcomes of one autoscaler on one set."""
        return {
            (job.trace, job.seed): outcome
            for job, outcome in self.found.items()
            if (job.autoscaler, job.set, job.scrape_seconds) == (autoscaler, name, scrape_seconds)
        }
