"""``python -m greenworker.bootstrap.inject DIRECTORY``: what the init container does for agent ``Inject``.

Copies the launcher to ``DIRECTORY/bin`` and this package to ``DIRECTORY/lib``, readable for every user. Needs nothing
but a writable DIRECTORY: the root may be read-only and the user any number. The compiled files come along: an
interpreter of the same version need not compile (0.03 s of CPU, which is 0.3 s on a tenth of a core), any other ignores
them.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import greenworker

DEFAULT_DIRECTORY = "/greenfleet"


def inject(directory: Path) -> None:
    """Replace what an earlier run left. Raises OSError."""
    package = Path(greenworker.__file__).parent
    library, binary = directory / "lib", directory / "bin"
    for old in (library, binary):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(package, library / "greenworker", copy_function=_copy)
    binary.mkdir(parents=True)
    shutil.copyfile(package / "bootstrap" / "launch.py", binary / "launch.py")
    for parent, directories, files in os.walk(directory):
        for name in directories:
            (Path(parent) / name).chmod(0o755)
        for name in files:
            (Path(parent) / name).chmod(0o644)


def _copy(source: str, target: str) -> str:
    """The content and the time of its change, by which Python knows what was compiled from what; no owner, mode or
    label of the image's.
    """
    shutil.copyfile(source, target)
    changed = Path(source).stat().st_mtime_ns
    os.utime(target, ns=(changed, changed))
    return target


def main() -> None:
    """Exit status 1 with a sentence if the directory cannot be written."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_DIRECTORY)
    try:
        inject(directory)
    except OSError as error:
        sys.stderr.write(f"greenworker: cannot write {directory}: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
