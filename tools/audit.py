"""Asks the advisory databases about every pinned dependency, and says plainly which ones it could not ask.

Exit status 0: asked about all, nothing known. 1: something is known to be vulnerable. 75: nothing found, but not all
could be asked (EX_TEMPFAIL): silence is not safety. Also checks `out/sbom/*.cdx.json`, where `make sbom` wrote them,
against CycloneDX.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from charts.gates.parts import python_tool

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("requirements/*.lock")))
SERVICES = ("pypi", "osv")
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)")
_SECONDS = 20
"""For one answer of a service."""
UNASKED = 75


@dataclass(frozen=True, slots=True)
class Pin:
    """One line of a lock."""

    name: str
    version: str
    hashes: int


def pins(text: str) -> Iterator[Pin]:
    """Every requirement of a lock, with how many hashes pin its content."""
    for block in re.sub(r"\\\n\s*", " ", text).splitlines():
        found = _REQUIREMENT.match(block)
        if found:
            yield Pin(found[1], found[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)))


def main(arguments: Sequence[str]) -> int:
    """Exit status as the module says."""
    python = python_tool(ROOT / "requirements" / "audit.lock")
    if arguments == ["sbom"]:
        return _validate(python)
    worst = 0
    for lock in LOCKS:
        found = list(pins((ROOT / lock).read_text(encoding="utf-8")))
        loose = [pin.name for pin in found if not pin.hashes]
        if loose:
            print(f"{lock}: not pinned with a hash: {', '.join(loose)}")
            worst = 1
        status, said = _ask(python, ROOT / lock)
        print(f"{lock}: {len(found)} packages pinned with hashes; {said}", flush=True)
        worst = 1 if 1 in (status, worst) else max(status, worst)
    print("Go modules are pinned by go.sum (cluster/), and are not asked about here: they build what the tests run on.")
    return worst


def _ask(python: Path, lock: Path) -> tuple[int, str]:
    """The exit status for one lock, and what to say."""
    problems = []
    for service in SERVICES:
        options = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json")
        limits = ("--timeout", str(_SECONDS), "--vulnerability-service", service)
        command = [str(python), "-m", "pip_audit", *options, *limits, "--requirement", str(lock)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        try:
            answer = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            reasons = [line for line in done.stderr.splitlines() if "Error" in line or "ERROR" in line]
            problems.append(f"{service} ({(reasons or ['no answer'])[-1].strip()[:160]})")
            continue
        known = [f"{one['name']} {one['version']}: {bug['id']}" for one in answer for bug in one.get("vulns", ())]
        skipped = [one["name"] for one in answer if "skip_reason" in one]
        if known:
            return 1, f"{service} knows of {', '.join(known)}"
        if len(skipped) == len(answer):
            problems.append(f"{service} (it says that it has none of them)")
            continue
        if skipped:
            return UNASKED, f"{service} knows nothing against the others, NOT ASKED about {', '.join(skipped)}"
        return 0, f"{service} knows nothing against them"
    return UNASKED, f"NOT ASKED: no advisory service answered: {'; '.join(problems)}"


def _validate(python: Path) -> int:
    documents = sorted((ROOT / "out" / "sbom").glob("*.cdx.json"))
    program = (
        "import sys; from cyclonedx.validation.json import JsonStrictValidator as V; "
        "from cyclonedx.schema import SchemaVersion as S; e = V(S.V1_6).validate_str(sys.stdin.read()); "
        "sys.exit(str(e) if e else 0)"
    )
    worst = 0
    for path in documents:
        text = path.read_text(encoding="utf-8")
        done = subprocess.run([str(python), "-c", program], input=text, check=False, capture_output=True, text=True)
        count = len(json.loads(text)["components"])
        verdict = "valid CycloneDX 1.6" if done.returncode == 0 else done.stderr
        print(f"{path.relative_to(ROOT)}: {count} components, {verdict}")
        worst = max(worst, done.returncode)
    return worst if documents else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
