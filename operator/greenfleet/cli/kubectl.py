"""kubectl as the way to the cluster: with the user's own rights, context and plugins for logging in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

_LOGGED = re.compile(r"[IWEF][0-9]{4} [0-9:.]+ +[0-9]+ ")
_UNREACHED = ("current-context", "Unable to connect to the server", "The connection to the server", "error: EOF")
"""The last one: kubectl asks for a user name, because the kubeconfig has no credentials."""
_CHOOSE = (
    "kubectl reaches no cluster: choose one with `kubectl config use-context NAME`, or another kubeconfig with "
    "KUBECONFIG, and try `kubectl get pods`"
)


class KubectlError(Exception):
    """What was asked of the cluster failed; the text says why and what to do."""

    @property
    def is_not_found(self) -> bool:
        """The API server knows no such thing."""
        return "(NotFound)" in str(self)

    @property
    def is_conflict(self) -> bool:
        """The one that answers is not the one to ask."""
        return "(Conflict)" in str(self)

    @property
    def is_unavailable(self) -> bool:
        """Nobody is there who could answer."""
        return "(ServiceUnavailable)" in str(self)

    @property
    def is_forbidden(self) -> bool:
        """The user lacks a right."""
        return "(Forbidden)" in str(self)


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """What kubectl prints. Raises KubectlError with what it complains of."""
    program = shutil.which("kubectl")
    if program is None:
        raise KubectlError("kubectl is not on the PATH: install it, it is the way to the cluster")
    try:
        finished = subprocess.run(  # noqa: S603
            [program, *arguments], input=stdin, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise KubectlError(f"kubectl ({program}) does not run: {error.strerror}: install one that does") from None
    if finished.returncode != 0:
        raise KubectlError(_complaint(finished.stderr) or f"kubectl {' '.join(arguments)} failed")
    return finished.stdout


def _complaint(stderr: str) -> str:
    """What kubectl says, without what it logs on the way there, and what to do where no cluster was reached."""
    said = "\n".join(line for line in stderr.splitlines() if not _LOGGED.match(line)).strip()
    return f"{said}\n{_CHOOSE}" if any(sign in said for sign in _UNREACHED) else said


def kubectl_json(*arguments: str, stdin: str | None = None) -> dict[str, Any]:
    """The object that kubectl prints. Raises KubectlError."""
    text = kubectl(*arguments, stdin=stdin)
    try:
        return dict(json.loads(text))
    except ValueError:
        raise KubectlError(f"kubectl {' '.join(arguments)} printed no JSON, but {text.strip()[:100]!r}") from None


def current_namespace() -> str:
    """The namespace of the current context."""
    found = kubectl("config", "view", "--minify", "-o", "jsonpath={..namespace}").strip()
    return found or "default"
