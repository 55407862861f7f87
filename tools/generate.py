"""Writes every generated file, or says with `--check` which ones are out of date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import greenfleet
from greenfleet.api.crd import render

ROOT = Path(__file__).resolve().parent.parent
CRD_COPIES = ("crds/greenfleet.io_greenworkerpools.yaml", "charts/greenfleet/files/greenworkerpools.yaml")

VERSIONED = {
    "worker/greenworker/__init__.py": r'(?m)^(__version__ = )".*"$',
    "charts/greenfleet/Chart.yaml": r"(?m)^(version: |appVersion: ).*$",
    "charts/demo/Chart.yaml": r"(?m)^(version: |appVersion: ).*$",
}
"""Files that repeat the version, and where. It is set in `operator/greenfleet/__init__.py` alone, from which the images
and the package take it too. The worker is a package of its own in the user's image, and helm reads a chart's version
from its file.
"""


def main(arguments: list[str]) -> int:
    """Exit status 1 where `--check` found a difference."""
    check = "--check" in arguments
    stale = [name for name in CRD_COPIES if not _is_current(ROOT / name, render(), write=not check)]
    for name, place in VERSIONED.items():
        content = (ROOT / name).read_text(encoding="utf-8")
        if not _is_current(ROOT / name, versioned(content, place, greenfleet.__version__), write=not check):
            stale.append(name)
    for name in stale if check else ():
        print(f"{name} is out of date: run `make generate`", file=sys.stderr)
    chart = subprocess.run([sys.executable, "-m", "charts.generate", *arguments], cwd=ROOT, check=False)
    return 1 if chart.returncode or (check and stale) else 0


def versioned(content: str, place: str, version: str) -> str:
    """The file with this version in its places."""
    return re.sub(place, rf'\g<1>"{version}"', content)


def _is_current(path: Path, content: str, *, write: bool) -> bool:
    current = path.exists() and path.read_text(encoding="utf-8") == content
    if write and not current:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return current


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
