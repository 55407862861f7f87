"""Resolves the dependencies anew: one lock for development, one for each image, the benches, and each tool that stands
apart, with hashes and without a URL.

Needs `uv` (it alone resolves for all supported Python versions at once); installs it into a temporary environment.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {
    "requirements.lock": ("operator", "worker", "dev"),
    "requirements/operator.lock": ("operator",),
    "requirements/worker.lock": ("worker",),
    "requirements/bench.lock": ("worker", "bench"),
    "requirements/checkov.lock": ("checkov",),
    "requirements/audit.lock": ("audit",),
    "requirements/celery-exporter.lock": ("celery-exporter",),
}
APART = ("requirements/checkov.lock", "requirements/audit.lock", "requirements/celery-exporter.lock")
OPTIONS = (
    "--universal",
    "--python-version",
    "3.11",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-header",
    "--quiet",
)


def main() -> int:
    """Writes all locks; the images' are held to the versions of the first."""
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = f"{directory}/bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
        first = next(iter(LOCKS))
        for lock, extras in LOCKS.items():
            wanted = [f"--extra={extra}" for extra in extras]
            held = [] if lock in (first, *APART) else ["--constraint", first]
            command = [
                python,
                "-m",
                "uv",
                "pip",
                "compile",
                *OPTIONS,
                *wanted,
                *held,
                "pyproject.toml",
                "--output-file",
                lock,
            ]
            subprocess.run(command, cwd=ROOT, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
