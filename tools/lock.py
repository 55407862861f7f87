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
    "requirements/examples.lock": ("examples",),
    "requirements/opentelemetry.lock": ("opentelemetry",),
}
APART = (
    "requirements/checkov.lock",
    "requirements/audit.lock",
    "requirements/celery-exporter.lock",
    "requirements/examples.lock",
    "requirements/opentelemetry.lock",
)
CELERIES = {
    "5.3": ("redis>=4.5.2,<5", "eventlet==0.40.*"),  # the oldest of all that the worker accepts
    "5.4": (),
    "5.5": (),
    "5.6": (),
    "5.7": (),
}
"""Versions of Celery that the worker is tested with, and what else they are tested with; see `tools.worker_matrix`."""
TESTING = (
    "eventlet", "hypothesis", "pip", "prometheus-client",
    "pytest", "pytest-rerunfailures", "pytest-timeout", "pytest-xdist",
)  # fmt: skip
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
        for celery, more in CELERIES.items():
            wanted = [f"celery[redis]=={celery}.*", f"kombu[redis]=={celery}.*", *TESTING, *more]
            options = [option if option != "3.11" else "3.10" for option in OPTIONS]
            command = [python, "-m", "uv", "pip", "compile", *options, "-", "--output-file"]
            lock = f"requirements/celery-{celery}.lock"
            subprocess.run([*command, lock], cwd=ROOT, check=True, input="\n".join(wanted), text=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
