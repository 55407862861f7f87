"""What an image holds, as a CycloneDX 1.6 document: Python's packages, Python itself, and Debian's packages.

    python sbom.py --name greenfleet-operator --version 0.1.0 > sbom.cdx.json

The Dockerfile runs it inside the build with the image's own interpreter, so it describes what is installed and not what
a lock asked for. Standard library only. The same content gives the same document, byte for byte: no time, and a serial
number that is a hash.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import uuid
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]

_DPKG_STATUS = Path("/var/lib/dpkg/status")
_OS_RELEASE = Path("/etc/os-release")
_NAMESPACE = uuid.UUID("a9a6a3d6-52c6-5b9c-9d10-5b1c6c2e7b11")


def document(name: str, version: str, components: list[Component]) -> Component:
    """The whole CycloneDX document."""
    content = json.dumps(components, sort_keys=True)
    root = f"pkg:oci/{name}@{version}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, name + version + content)}",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": root, "name": name, "version": version}},
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [component["bom-ref"] for component in components]}],
    }


def python_components() -> Iterator[Component]:
    """The interpreter, and every distribution that it finds."""
    version = platform.python_version()
    yield _component("application", "python", version, f"pkg:generic/python@{version}", ["Python-2.0.1"])
    for found in sorted(distributions(), key=lambda one: one.metadata["Name"].lower()):
        name = found.metadata["Name"].lower().replace("_", "-")
        yield _component("library", name, found.version, f"pkg:pypi/{name}@{found.version}", _licences(found))


def _licences(found: Distribution) -> list[str]:
    metadata = found.metadata
    expressions = metadata.get_all("License-Expression", [])
    if expressions:
        return expressions
    classifiers = [text for text in metadata.get_all("Classifier", []) if text.startswith("License :: ")]
    named = [text.rsplit(" :: ", 1)[1] for text in classifiers if not text.endswith("OSI Approved")]
    return named or [text.split("\n")[0][:100] for text in metadata.get_all("License", []) if text]


def debian_components(status: str, os_release: str) -> Iterator[Component]:
    """Every installed package of dpkg's status file."""
    system = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    distribution = f"{system.get('ID', 'debian')}-{system.get('VERSION_ID', '')}".replace('"', "")
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status") != "install ok installed":
            continue
        name, version = fields["Package"], fields["Version"]
        where = f"arch={fields.get('Architecture', 'all')}&distro={quote(distribution)}"
        purl = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?{where}"
        yield _component("library", name, version, purl, [])


def _component(kind: str, name: str, version: str, purl: str, licences: list[str]) -> Component:
    component: Component = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if licences:
        component["licenses"] = [{"license": {"name": licence}} for licence in licences]
    return component


def main() -> int:
    """Prints the document of the image that this runs in."""
    parser = argparse.ArgumentParser(description="The contents of this image as CycloneDX 1.6")
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", required=True)
    options = parser.parse_args()
    components = list(python_components())
    if _DPKG_STATUS.exists():
        release = _OS_RELEASE.read_text(encoding="utf-8") if _OS_RELEASE.exists() else ""
        components += debian_components(_DPKG_STATUS.read_text(encoding="utf-8"), release)
    json.dump(document(options.name, options.version, components), sys.stdout, indent=1, ensure_ascii=False)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
