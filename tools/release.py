"""Builds and publishes one release: both images and the chart, which names them by digest.

    python -m tools.release --version 0.2.0 --registry registry.example/greenfleet

What it does, in this order; it stops at the first step that fails, and nothing that is published is ever replaced:

1. compares the version with the one in the code, and refuses a checkout with changes;
2. builds the images `operator` and `worker` for this machine's architecture and pushes them to REGISTRY/NAME:VERSION;
3. writes what the release is made of to out/release/VERSION: a bill of materials per image (CycloneDX) and a statement
  of
   provenance (in-toto, SLSA v1: commit, command, digests);
4. packages the chart with this version and these digests, and pushes it to oci://REGISTRY/charts;
5. signs images and chart, and attests the bills of materials, if `cosign` is on the PATH and COSIGN_KEY or COSIGN_YES
  says how.

Exit status 1, with field, value, reason and fix, where something is wrong. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

import greenfleet
from charts.gates.parts import GateError, programs, run

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ("operator", "worker")
VALUES_KEY = {"operator": "image", "worker": "workerImage"}
"""Where the chart's values name the image."""
_SEMVER = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")


class ReleaseError(Exception):
    """The release was stopped; the text says field, value, reason and fix."""


@dataclass(frozen=True, slots=True)
class Release:
    """Where one version goes."""

    version: str
    registry: str
    plain_http: bool
    """The registry speaks no TLS: one on this machine."""

    @property
    def directory(self) -> Path:
        return ROOT / "out" / "release" / self.version

    @property
    def plain(self) -> list[str]:
        """What `helm` and `cluster/kube image push` are told of a registry without TLS."""
        return ["--plain-http"] if self.plain_http else []

    def image(self, name: str) -> str:
        return f"{self.registry}/{name}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.release", description="Build and publish one release.")
    parser.add_argument("--version", required=True, help="X.Y.Z, as in the code")
    parser.add_argument("--registry", required=True, help="HOST/PATH to which images and chart are pushed")
    parser.add_argument("--plain-http", action="store_true", help="the registry speaks no TLS (one on this machine)")
    parser.add_argument("--trial", action="store_true", help="take a checkout with changes, and any version")
    options = parser.parse_args(arguments)
    release = Release(options.version, options.registry.removesuffix("/"), options.plain_http)
    try:
        check(release, trial=options.trial)
        print(json.dumps(publish(release)))
    except (ReleaseError, GateError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def check(release: Release, *, trial: bool) -> None:
    """Raises ReleaseError where this checkout is not that version."""
    if not _SEMVER.fullmatch(release.version):
        raise ReleaseError(
            f"--version: {release.version!r} is no semantic version; a chart needs one. Write X.Y.Z, such as 0.2.0."
        )
    if "://" in release.registry or not release.registry:
        raise ReleaseError(
            f"--registry: {release.registry!r} has a scheme or is empty; images are named without one. Write HOST/PATH."
        )
    if trial:
        return
    if release.version != greenfleet.__version__:
        raise ReleaseError(
            f"--version: {release.version} is not the version of the code, {greenfleet.__version__}; images and "
            "chart would "
            "contradict what they say of themselves. Set it as docs/project/maintainers.md says, and commit."
        )
    changed = run(["git", "status", "--porcelain"]).strip()
    if changed:
        first = changed.splitlines()[0].strip()
        raise ReleaseError(
            f"checkout: {first!r} is not committed; nobody could say what the release was made of. Commit or remove it."
        )


def publish(release: Release) -> dict[str, object]:
    """Builds and pushes all parts; what was published, with digests. Raises ReleaseError if the version is there
    already.
    """
    if published(release):
        raise ReleaseError(
            f"--version: {release.version} is in oci://{release.registry}/charts already; what is published is "
            "never replaced, "
            "because others have pulled it. Raise the version."
        )
    release.directory.mkdir(parents=True, exist_ok=True)
    digests = {name: push_image(release, name) for name in IMAGES}
    for name in IMAGES:
        bill = run([ROOT / "cluster" / "kube", "image", "file", name, "/opt/greenfleet/sbom.cdx.json"])
        (release.directory / f"{name}.cdx.json").write_text(bill, encoding="utf-8")
    chart = push_chart(release, digests)
    statement = provenance(release, {**{release.image(name): digest for name, digest in digests.items()}, **chart})
    (release.directory / "provenance.json").write_text(json.dumps(statement, indent=2) + "\n", encoding="utf-8")
    return {
        "version": release.version,
        "images": {release.image(name): digest for name, digest in digests.items()},
        "chart": chart,
        "architectures": [platform.machine()],
        "signed": sign(release, digests, chart),
    }


def published(release: Release) -> bool:
    """Whether the registry has a chart of this version."""
    (helm,) = programs("helm")
    chart = f"oci://{release.registry}/charts/greenfleet"
    command = [str(helm), "show", "chart", chart, "--version", release.version, *release.plain]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def push_image(release: Release, name: str) -> str:
    """Digest of one image in the registry (`sha256:…`)."""
    labels = {"version": release.version, "revision": run(["git", "rev-parse", "HEAD"]).strip()}
    told = [f"--label=org.opencontainers.image.{key}={value}" for key, value in labels.items()]
    reference = f"{release.image(name)}:{release.version}"
    return run([ROOT / "cluster" / "kube", "image", "push", name, reference, *told, *release.plain]).strip()


def push_chart(release: Release, digests: Mapping[str, str]) -> dict[str, str]:
    """Name → digest of the chart in the registry, whose values name the images by digest."""
    (helm,) = programs("helm")
    with tempfile.TemporaryDirectory() as place:
        chart = Path(place) / "greenfleet"
        shutil.copytree(ROOT / "charts" / "greenfleet", chart)
        values = chart / "values.yaml"
        values.write_text(with_images(values.read_text(encoding="utf-8"), release, digests), encoding="utf-8")
        version = ["--version", release.version, "--app-version", release.version]
        run([helm, "package", chart, *version, "--destination", release.directory])
        archive = release.directory / f"greenfleet-{release.version}.tgz"
        done = subprocess.run(
            [str(helm), "push", str(archive), f"oci://{release.registry}/charts", *release.plain],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
    found = re.search(r"^Digest: (sha256:[0-9a-f]{64})$", done.stdout + done.stderr, re.MULTILINE)
    if done.returncode or not found:
        raise ReleaseError(f"chart: helm push failed: {(done.stdout + done.stderr).strip()}")
    return {f"{release.registry}/charts/greenfleet": found[1]}


def with_images(text: str, release: Release, digests: Mapping[str, str]) -> str:
    """values.yaml with the images of this release, its comments kept. Raises ReleaseError if it has another layout."""
    for name, digest in digests.items():
        key = VALUES_KEY[name]
        block = re.search(rf"^{key}:\n(?:(?:  .*)?\n)+", text, re.MULTILINE)
        if block is None:
            raise ReleaseError(f"charts/greenfleet/values.yaml: there is no {key}, which is where {name} is named")
        changed = re.sub(r"(?m)^  repository: .*$", f"  repository: {release.image(name)}", block[0])
        changed = re.sub(r"(?m)^  digest: .*$", f'  digest: "{digest}"', changed)
        text = text.replace(block[0], changed)
    read = yaml.safe_load(text)
    wrong = [name for name, digest in digests.items() if read[VALUES_KEY[name]]["digest"] != digest]
    if wrong:
        raise ReleaseError(f"charts/greenfleet/values.yaml: the digest of {wrong[0]} could not be set")
    return text


def provenance(release: Release, subjects: Mapping[str, str]) -> dict[str, object]:
    """What was made from what (in-toto Statement v1 with SLSA provenance v1: https://slsa.dev/spec/v1.0/provenance)."""
    commit = run(["git", "rev-parse", "HEAD"]).strip()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}} for name, digest in subjects.items()
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "https://greenfleet.io/make-release/v1",
                "externalParameters": {"version": release.version},
                "resolvedDependencies": [
                    {"uri": "git+greenfleet", "digest": {"gitCommit": commit}},
                ],
            },
            "runDetails": {
                "builder": {"id": os.environ.get("GITHUB_WORKFLOW_REF", "make release")},
                "metadata": {"finishedOn": datetime.now(UTC).isoformat(timespec="seconds")},
            },
        },
    }


def sign(release: Release, digests: Mapping[str, str], chart: Mapping[str, str]) -> str:
    """Signs everything by digest; says what was done, or why not."""
    cosign = shutil.which("cosign")
    key = os.environ.get("COSIGN_KEY", "")
    if cosign is None:
        return "no: cosign is not on the PATH"
    if not key and not os.environ.get("COSIGN_YES"):
        return "no: neither COSIGN_KEY nor COSIGN_YES (keyless) is set"
    how = ["--yes", *(["--key", key] if key else []), *(["--allow-insecure-registry"] if release.plain_http else [])]
    for name, digest in {**{release.image(name): digest for name, digest in digests.items()}, **chart}.items():
        run([cosign, "sign", *how, f"{name}@{digest}"])
    for name, digest in digests.items():
        bill = release.directory / f"{name}.cdx.json"
        run([cosign, "attest", *how, "--type", "cyclonedx", "--predicate", bill, f"{release.image(name)}@{digest}"])
    return "with a key" if key else "keyless"


if __name__ == "__main__":
    sys.exit(main())
