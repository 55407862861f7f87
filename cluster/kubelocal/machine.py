"""How this machine reaches its package registries, lent to a build for as long as it runs.

Mounted read-only and never copied into an image: what apt, pip and TLS are told here is this machine's business, and
nothing of it may end up in the project or in what it ships.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from kubelocal.run import run

_CERTIFICATES = Path("/etc/ssl/certs")
_PIP = Path("/etc/pip.conf")
_APT_SETTINGS = "/etc/apt/apt.conf.d/99machine"


@contextmanager
def build_mounts() -> Iterator[list[str]]:
    """`--volume` values for `buildah build`."""
    mounts = [(path, str(path)) for path in (_CERTIFICATES, _PIP) if path.exists()]
    with TemporaryDirectory(prefix="greenfleet-apt-") as scratch:
        settings = Path(scratch) / "acquire"
        # How to fetch (proxies, validity), and not the rest: this machine's hooks call what the image lacks, and its
        # sources may be of another release.
        settings.write_text(run(["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', "Acquire"]))
        settings.chmod(0o644)
        mounts.append((settings, _APT_SETTINGS))
        yield [f"{source}:{target}:ro" for source, target in mounts]
