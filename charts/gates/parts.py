"""Where things are, and how programs are run: what all gates share."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CHARTS = REPOSITORY / "charts"
VALUES = REPOSITORY / "tests" / "unit" / "charts" / "values"
KUBE = REPOSITORY / "cluster" / "kube"


class GateError(Exception):
    """A gate stays shut; the text is what the program said, and what to do."""


def run(command: Sequence[str | Path], *, environment: dict[str, str] | None = None, check: bool = True) -> str:
    """Standard output of a program. Raises GateError with all that it said where it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
    )
    if check and done.returncode:
        raise GateError(f"{done.stdout}{done.stderr}".strip())
    return done.stdout


def programs(*names: str) -> list[Path]:
    """Paths of programs of the project's own, built where they are missing; what takes long is told on standard
    error.
    """
    built = subprocess.run([sys.executable, KUBE, "program", *names], check=False, stdout=subprocess.PIPE, text=True)
    if built.returncode:
        raise GateError(f"cluster/kube could not build {', '.join(names)}: what it said is above")
    return [Path(line) for line in built.stdout.split()]


def cache(kind: str, *decided_by: bytes) -> Path:
    """A directory beside those of `cluster/kube`, named after everything that decides its content."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(chosen) if chosen.startswith("/") else Path.home() / ".cache"
    return root / "greenfleet" / kind / hashlib.sha256(b"\0".join(decided_by)).hexdigest()[:16]


def rendered(helm: Path, directory: Path) -> list[Path]:
    """One file per value file, and one of the demo's chart, as helm renders them."""
    operator = CHARTS / "greenfleet"
    chosen: list[tuple[str, Path, tuple[str, ...]]] = [
        (file.stem, operator, ("--values", str(file))) for file in sorted(VALUES.glob("*.yaml"))
    ]
    files = []
    for name, chart, values in (*chosen, ("demo-chart", CHARTS / "demo", ())):
        files.append(directory / f"{name}.yaml")
        text = run([helm, "template", "greenfleet", chart, "--namespace", "greenfleet-system", *values])
        files[-1].write_text(text, encoding="utf-8")
    return files


def python_tool(lock: Path) -> Path:
    """The Python of an environment that has what a lock file says, made where it is missing (half a minute)."""
    target = cache("python", lock.read_bytes(), sys.version.encode())
    python = target / "bin" / "python"
    if not target.exists():
        draft = target.with_name(f"{target.name}.{os.getpid()}")
        print(f"  … installing {lock.name} into its own environment, once for this version of it", file=sys.stderr)
        run(
            [sys.executable, "-m", "venv", "--without-pip", draft]
        )  # Debian's Pythons of other versions have no ensurepip
        install = ["install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--requirement", str(lock)]
        run([sys.executable, "-m", "pip", "--python", draft / "bin" / "python", *install])
        if target.exists():  # somebody else was faster
            shutil.rmtree(draft)
        else:
            draft.rename(target)
    return python
