"""`python -m charts.gates`: all gates in turn, one line each."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from charts.gates import checkov_gate, schema_gate, schemas
from charts.gates.parts import CHARTS, REPOSITORY, VALUES, GateError, programs, python_tool, rendered, run


def main() -> int:
    """Exit status 1 at the first gate that stays shut."""
    try:
        helm, kubeconform, actionlint = programs("helm", "kubeconform", "actionlint")
        _gate("actionlint", lambda: _workflows(actionlint))
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place)
            _gate("helm lint --strict", lambda: _lint(helm))
            files = rendered(helm, directory)
            _gate("kubeconform -strict", lambda: schema_gate.check(kubeconform, schemas.ensure(), files))
            own = [file for file in files if file.stem != "demo-chart"]
            python = python_tool(REPOSITORY / "requirements" / "checkov.lock")
            _gate("checkov", lambda: checkov_gate.check(python, own))
    except GateError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _gate(name: str, check: Callable[[], str]) -> None:
    started = time.monotonic()
    try:
        said = check()
    except GateError as error:
        raise GateError(f"{name}:\n{error}") from None
    print(f"{name}: {said} ({time.monotonic() - started:.1f} s)")


def _workflows(actionlint: Path) -> str:
    files = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
    run([actionlint, "-no-color", "-shellcheck=", "-pyflakes=", *files])
    return f"{len(files)} workflows"


def _lint(helm: Path) -> str:
    values = sorted(VALUES.glob("*.yaml"))
    for file in values:
        run([helm, "lint", "--strict", "--values", file, CHARTS / "greenfleet"])
    run([helm, "lint", "--strict", CHARTS / "demo"])
    return f"2 charts, {len(values)} value files"


if __name__ == "__main__":
    sys.exit(main())
