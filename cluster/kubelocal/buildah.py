"""buildah with a store of its own below the cache, so that the machine's images are neither seen nor touched."""

from __future__ import annotations

import shutil
from pathlib import Path

from kubelocal.places import cache
from kubelocal.run import run

_RUN_ROOT = Path("/run/greenfleet-images")


class Buildah:
    def __init__(self, log: Path | None = None) -> None:
        self._log = log

    def __call__(self, *arguments: str | Path) -> str:
        return self._run(arguments, log=None)

    def logged(self, *arguments: str | Path) -> None:
        """For what takes long and says much."""
        self._run(arguments, log=self._log)

    def has(self, image: str) -> bool:
        return bool(self("images", "--quiet", "--filter", f"reference={image}").strip())

    def _run(self, arguments: tuple[str | Path, ...], *, log: Path | None) -> str:
        store = cache() / "images" / "store"
        driver = _storage_driver(store)
        # A mount namespace of its own: whatever buildah mounts is gone when it ends, however it ends.
        options = ("--root", store, "--runroot", _RUN_ROOT, "--storage-driver", driver)
        return run(["unshare", "--mount", "--propagation", "slave", "buildah", *options, *arguments], log=log)


def _storage_driver(store: Path) -> str:
    """overlay cannot lie on top of another overlay, such as the root of a container."""
    best, kind = Path("/"), ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, filesystem, *_ = line.split()
        mount = Path(target)
        if (mount == store or mount in store.parents) and len(mount.parts) >= len(best.parts):
            best, kind = mount, filesystem
    return "vfs" if kind in {"overlay", "tmpfs"} else "overlay"


def forget() -> None:
    """Remove what buildah keeps between builds besides the images: lock files and empty mount points, as a reboot
    would.
    """
    shutil.rmtree(_RUN_ROOT, ignore_errors=True)
