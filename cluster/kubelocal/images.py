"""Images without a registry: built with buildah, kept as OCI archives in the cache, loaded into the cluster's
containerd.

An archive is reused as long as what went into it is the same: the Dockerfile, the build arguments, the files that its
COPY and ADD lines name, and the base image.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from kubelocal import baseimage, binaries, buildcontext, debian, oci, runtime
from kubelocal.baseimage import BASE
from kubelocal.buildah import Buildah
from kubelocal.errors import ClusterError
from kubelocal.machine import build_mounts
from kubelocal.places import REPOSITORY, SOURCE, Places, cache
from kubelocal.report import Report
from kubelocal.run import locked

_RECIPES = SOURCE / "images"
_PROGRAMS = frozenset({"prometheus"})
"""Recipes that copy the program of the same name: its directory is the context."""
_DEFAULT_TAG = "dev"
_STEP_SECONDS = 40


@dataclass(frozen=True)
class Recipe:
    tag: str
    dockerfile: Path
    context: Path
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        inputs = buildcontext.digest(context=self.context, dockerfile=self.dockerfile)
        parts = [BASE, self.tag, self.target, sorted(self.arguments.items()), inputs]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def recipe(
    name: str,
    report: Report,
    *,
    dockerfile: Path | None = None,
    target: str = "",
    tag: str = "",
    context: Path | None = None,
    arguments: Mapping[str, str] = MappingProxyType({}),
) -> Recipe:
    """`redis` means cluster/images/redis.Dockerfile; any other name is a target of the project's own Dockerfile.

    A program that the image is made of is built here, because its content is a part of the recipe.
    """
    own = _RECIPES / f"{name}.Dockerfile"
    chosen = dockerfile or (own if own.exists() else REPOSITORY / "Dockerfile")
    if not chosen.exists():
        known = ", ".join(sorted(path.stem for path in _RECIPES.glob("*.Dockerfile")))
        raise ClusterError(f"There is no {chosen} to build {name!r} from. Known by name: {known}.")
    if context is None and chosen == own:
        context = binaries.ensure_named([name], report)[0].parent if name in _PROGRAMS else _RECIPES
    return Recipe(
        tag=reference(tag or f"localhost/greenfleet-{name}:{_DEFAULT_TAG}"),
        dockerfile=chosen,
        context=context or REPOSITORY,
        target=target or ("" if chosen == own or dockerfile else name),
        arguments=arguments,
    )


def reference(tag: str) -> str:
    """The full name under which kubelet looks for an image that a manifest calls `tag`."""
    first, slash, _ = tag.partition("/")
    named = tag if "@" in tag or ":" in tag.rpartition("/")[2] else f"{tag}:latest"
    if slash and ("." in first or ":" in first or first == "localhost"):
        return named
    return f"docker.io/{named}" if slash else f"docker.io/library/{named}"


def build(wanted: Recipe, report: Report) -> Path:
    """The image's archive, built if anything that goes into it has changed."""
    archive = _archive(wanted.tag, wanted.digest())
    if archive.exists():
        return archive
    debian.ensure(debian.FOR_IMAGES, report)
    baseimage.ensure(report)
    buildah = Buildah(log=cache() / "logs" / f"image-{_file_name(wanted.tag)}.log")
    with locked(_lock(wanted.tag), waiting=lambda: report.say(f"  … {wanted.tag} is being built; waiting for it")):
        if not archive.exists():
            with report.step(f"building {wanted.tag}", usual_seconds=_STEP_SECONDS):
                _build(wanted, buildah)
                _export(wanted.tag, archive, buildah)
    return archive


def read(wanted: Recipe, path: str, report: Report) -> str:
    """A text file of an image: from its archive, because the tag in the store may be another checkout's by now."""
    archive = build(wanted, report)
    buildah = Buildah()
    container = buildah("from", "--quiet", f"oci-archive:{archive}").strip()
    try:
        return buildah("run", "--isolation=chroot", "--user=0:0", container, "--", "cat", path)
    finally:
        buildah("rm", container)


def push(wanted: Recipe, target: str, labels: Mapping[str, str], report: Report, *, plain_http: bool) -> str:
    """Pushes an image with these labels to a registry as *target* (REGISTRY/NAME:TAG); its digest there (`sha256:…`).

    A release's image differs from the local build by its labels at least. That matters: kubelet takes one content under
    two names, one pulled and one loaded, for an image that it has to pull again.
    """
    archive = build(wanted, report)
    buildah = Buildah()
    container = buildah("from", "--quiet", f"oci-archive:{archive}").strip()
    try:
        buildah("config", *(f"--label={key}={value}" for key, value in labels.items()), container)
        image = buildah("commit", "--quiet", container).strip()
    finally:
        buildah("rm", container)
    with tempfile.TemporaryDirectory() as directory:
        said = Path(directory) / "digest"
        tls = ("--tls-verify=false",) if plain_http else ()
        with report.step(f"pushing {target}", usual_seconds=_STEP_SECONDS):
            buildah("push", "--quiet", *tls, f"--digestfile={said}", image, f"docker://{target}")
        return said.read_text().strip()


def pause(programs: Path) -> Path:
    """The archive of the sandbox image, without which no pod starts."""
    program = programs / "pause"
    archive = _archive(runtime.PAUSE_IMAGE, hashlib.sha256(program.read_bytes()).hexdigest()[:16])
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        oci.write_single_program(program, archive, name=runtime.PAUSE_IMAGE)
    return archive


def load(places: Places, archive: Path) -> bool:
    """Load an archive into the cluster's containerd. False if exactly this image is there already."""
    image = oci.identify(archive)
    if image is not None and _loaded(places).get(image.name) == image.digest:
        return False
    runtime.ctr(places, "images", "import", archive)
    return True


def alias(places: Places, name: str, other: str) -> None:
    """Give a loaded image another name, in place of whatever has it: for a manifest that names what cannot be pulled
    here.
    """
    runtime.ctr(places, "images", "tag", "--force", reference(name), reference(other))


def _loaded(places: Places) -> dict[str, str]:
    rows = (line.split() for line in runtime.ctr(places, "images", "list").splitlines()[1:])
    return {row[0]: row[2] for row in rows if len(row) > 2}


def _build(wanted: Recipe, buildah: Buildah) -> None:
    arguments = {"BASE_IMAGE": BASE, **wanted.arguments}
    with build_mounts() as mounts:
        buildah.logged(
            "build",
            "--layers",
            "--pull=never",
            "--isolation=chroot",
            "--network=host",
            *(f"--volume={mount}" for mount in mounts),
            *(f"--build-arg={key}={value}" for key, value in arguments.items()),
            *([f"--target={wanted.target}"] if wanted.target else []),
            f"--file={wanted.dockerfile}",
            f"--tag={wanted.tag}",
            wanted.context,
        )


def _export(tag: str, archive: Path, buildah: Buildah) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    draft = archive.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    # The cheapest to write and to unpack; buildah's own default (gzip) takes twice as long for both.
    compression = ("--compression-format=zstd", "--compression-level=1")
    buildah.logged("push", "--quiet", *compression, tag, f"oci-archive:{draft}:{tag}")
    for older in archive.parent.glob(f"{_file_name(tag)}@*.tar"):
        older.unlink()
    draft.rename(archive)


def _archive(tag: str, digest: str) -> Path:
    return cache() / "images" / "archives" / f"{_file_name(tag)}@{digest}.tar"


def _lock(tag: str) -> Path:
    return cache() / "locks" / f"image-{_file_name(tag)}.lock"


def _file_name(tag: str) -> str:
    return tag.replace("/", "_").replace(":", "_")
