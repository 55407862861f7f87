"""The base image that stands in for `python:slim`: Debian with Python, made by debootstrap because nothing can be
pulled.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from kubelocal import debian
from kubelocal.buildah import Buildah
from kubelocal.places import cache
from kubelocal.report import Report
from kubelocal.run import locked, run

SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_USER = 65532
"""The user that Pod Security "restricted" pods of this project run as; named, so that programs that look it up
find it.
"""

_STEP_SECONDS = 90

_REMOVED = (
    "boot/*",
    "etc/apt/sources.list.d/*",
    "tmp/*",
    "usr/share/doc/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "var/cache/apt/*",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/*",
    "var/lib/apt/lists/*",
    "var/log/*",
)
_FILES = {
    "etc/dpkg/dpkg.cfg.d/without-documentation": "".join(
        f"path-exclude=/usr/share/{name}/*\n" for name in ("doc", "info", "locale", "man")
    ),
    # Packages that are installed in a build must not start their services in it.
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
    "etc/hostname": "localhost\n",
    "etc/resolv.conf": "",
}


def _recipe_hash() -> str:
    return hashlib.sha256(repr((SUITE, _PACKAGES, _USER, _REMOVED, _FILES)).encode()).hexdigest()[:12]


BASE = f"localhost/greenfleet-base:{_recipe_hash()}"


def ensure(report: Report, *, refresh: bool = False) -> str:
    """The base image's name. `refresh` makes it anew, to get Debian's latest fixes."""
    debian.ensure(debian.FOR_IMAGES, report)
    buildah = Buildah()
    with locked(
        cache() / "locks" / "base.lock", waiting=lambda: report.say("  … the base image is being made; waiting for it")
    ):
        if refresh or not buildah.has(BASE):
            with report.step("making the base image with debootstrap", usual_seconds=_STEP_SECONDS):
                _make(buildah)
    return BASE


def _make(buildah: Buildah) -> None:
    scratch = cache() / "images"
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch, prefix="base-") as directory:
        root = Path(directory) / "root"
        # debootstrap unmounts what it mounts, unless it is interrupted; the namespace forgets it in any case.
        debootstrap = ("debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", SUITE, root)
        run(
            ["nice", "-n", "5", "unshare", "--mount", "--propagation", "slave", *debootstrap],
            log=cache() / "logs" / "debootstrap.log",
        )
        _clean(root)
        container = buildah("from", "scratch").strip()
        try:
            buildah("add", "--quiet", container, root, "/")
            buildah(
                "config", "--env", "LANG=C.UTF-8", "--env", "PYTHONDONTWRITEBYTECODE=1", "--cmd", "python3", container
            )
            buildah("commit", "--quiet", container, BASE)
        finally:
            buildah("rm", container)


def _clean(root: Path) -> None:
    for path in _matches(root, _REMOVED):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name, content in _FILES.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_text(content)
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    for name, line in (
        ("passwd", f"nonroot:x:{_USER}:{_USER}:nonroot:/tmp:/usr/sbin/nologin\n"),
        ("group", f"nonroot:x:{_USER}:\n"),
    ):
        with (root / "etc" / name).open("a") as accounts:
            accounts.write(line)


def _matches(root: Path, patterns: Iterable[str]) -> Iterable[Path]:
    return [path for pattern in patterns for path in root.glob(pattern)]
