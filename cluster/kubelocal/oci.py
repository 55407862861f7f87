"""OCI archives as files: what image one holds, and how to write one that holds a single static program.

The sandbox image is written here and not with buildah, so that starting a cluster needs neither buildah nor a base
image.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAME = "org.opencontainers.image.ref.name"
_MEDIA = "application/vnd.oci.image"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    name: str
    digest: str


def identify(archive: Path) -> Image | None:
    """None if this is not an OCI archive of one named image (a `docker save` file, for instance)."""
    try:
        with tarfile.open(archive) as tar:
            index = tar.extractfile("index.json")
            manifests = json.load(index)["manifests"] if index else []
    except (KeyError, tarfile.TarError):
        return None
    if len(manifests) != 1 or _NAME not in manifests[0].get("annotations", {}):
        return None
    return Image(manifests[0]["annotations"][_NAME], manifests[0]["digest"])


def write_single_program(program: Path, archive: Path, *, name: str) -> None:
    """An image `FROM scratch` whose only file is the program, and whose entrypoint it is."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        _add(tar, program.name, program.read_bytes(), mode=0o755)
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    layer_descriptor = blob(layer.getvalue(), f"{_MEDIA}.layer.v1.tar")
    configuration = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [layer_descriptor["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": blob(_json(configuration), f"{_MEDIA}.config.v1+json"),
        "layers": [layer_descriptor],
    }
    descriptor = {**blob(_json(manifest), f"{_MEDIA}.manifest.v1+json"), "annotations": {_NAME: name}}
    draft = archive.with_name(f".{archive.name}.{os.getpid()}")
    with tarfile.open(draft, mode="w") as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": [descriptor]}))
        for path, content in blobs.items():
            _add(tar, path, content)
    draft.replace(archive)


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = mode
    tar.addfile(entry, io.BytesIO(content))


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
