"""What is installed is what was looked at: hashes in every lock, and a bill of materials that says what it sees."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from charts.gates.parts import REPOSITORY
from tools import sbom
from tools.audit import LOCKS, pins


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_of_every_lock_has_a_hash(lock: str) -> None:
    found = list(pins((REPOSITORY / lock).read_text(encoding="utf-8")))
    assert found
    assert not [pin.name for pin in found if not pin.hashes]


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_names_a_place(lock: str) -> None:
    lines = (REPOSITORY / lock).read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if "://" in line or line.startswith(("-i", "--index", "--extra", "--find"))]


def test_the_images_are_held_to_the_versions_that_were_tested() -> None:
    def versions(lock: str) -> dict[str, str]:
        return {pin.name: pin.version for pin in pins((REPOSITORY / lock).read_text(encoding="utf-8"))}

    tested = versions("requirements.lock")
    for lock in ("requirements/operator.lock", "requirements/worker.lock"):
        assert versions(lock).items() <= tested.items()


def test_a_bill_of_materials_names_every_python_package_once_with_its_version() -> None:
    command = [sys.executable, "-m", "tools.sbom", "--name", "x", "--version", "1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    again = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == again.stdout, "the same content gives the same document"
    bill = json.loads(done.stdout)
    assert bill["specVersion"] == "1.6"
    named = {one["name"]: one["version"] for one in bill["components"]}
    assert len(named) > 30
    assert named["pytest"] == pytest.__version__
    references = [one["bom-ref"] for one in bill["components"]]
    assert len(references) == len(set(references))
    assert set(bill["dependencies"][0]["dependsOn"]) == set(references)


STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: a library
 with more words: here

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2025b-0+deb12u1
"""


def test_debians_packages_are_those_that_are_installed() -> None:
    found = list(sbom.debian_components(STATUS, 'ID=debian\nVERSION_ID="12"\n'))
    assert [one["purl"] for one in found] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12",
        "pkg:deb/debian/tzdata@2025b-0%2Bdeb12u1?arch=all&distro=debian-12",
    ]
