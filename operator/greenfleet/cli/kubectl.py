"""kubectl as the way to the cluster: with the user's own rights, context and plugins for logging in."""

from __future__ import annotations

import shutil
import subprocess


class KubectlError(Exception):
    """What was asked of the cluster failed; the text says why and what to do."""


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """What kubectl prints. Raises KubectlError with what it complains of."""
    program = shutil.which("kubectl")
    if program is None:
        raise KubectlError("kubectl is not on the PATH: install it, it is the way to the cluster")
    finished = subprocess.run(  # noqa: S603
        [program, *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    if finished.returncode != 0:
        raise KubectlError(finished.stderr.strip() or f"kubectl {' '.join(arguments)} failed")
    return finished.stdout


def current_namespace() -> str:
    """The namespace of the current context."""
    found = kubectl("config", "view", "--minify", "-o", "jsonpath={..namespace}").strip()
    return found or "default"
