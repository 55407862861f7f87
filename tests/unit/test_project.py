"""What several files say of the project is the same in all of them, and what its workflows call exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import greenfleet
import greenworker
from greenfleet import settings
from tools.generate import VERSIONED, versioned

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_the_version_is_set_in_one_file_and_everything_else_follows() -> None:
    charts = [yaml.safe_load(text(f"charts/{name}/Chart.yaml")) for name in ("greenfleet", "demo")]
    assert {greenworker.__version__, *(chart[key] for chart in charts for key in ("version", "appVersion"))} == {
        greenfleet.__version__
    }
    assert settings.WorkerImage().image.endswith(f":{greenfleet.__version__}")
    for name, place in VERSIONED.items():
        assert text(name) == versioned(text(name), place, greenfleet.__version__), "run `make generate`"
        assert text(name) != versioned(text(name), place, "9.9.9")


def test_no_other_file_of_code_repeats_the_version() -> None:
    """Not one that is compared with it either: a release would have to be edited in it."""
    repeated = f'"[^"]*{re.escape(greenfleet.__version__)}"'
    folders = ("operator", "worker", "charts", "demo", "tools", "bench", "cluster")
    found = [
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if re.search(repeated, path.read_text(encoding="utf-8"))
    ]
    assert sorted(found) == ["operator/greenfleet/__init__.py", "worker/greenworker/__init__.py"]


def test_the_changelog_has_a_section_for_this_version_or_says_unreleased() -> None:
    headings = re.findall(r"^## \[(.+?)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert greenfleet.__version__ in headings


def test_the_lowest_kubernetes_is_the_same_everywhere() -> None:
    chart = yaml.safe_load(text("charts/greenfleet/Chart.yaml"))
    lowest = re.search(r">=\s*(\d+\.\d+)", chart["kubeVersion"])
    assert lowest
    for path in ("README.md", "charts/greenfleet/README.md"):
        named = set(re.findall(r"Kubernetes (?:≥ )?(1\.\d+)(?: or newer| \(tested)", text(path)))
        assert named == {lowest[1]}, path


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_nothing_but_make_targets(workflow: Path) -> None:
    """What fails there fails on everybody's machine in the same way."""
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert runs
    for line in runs:
        command = re.fullmatch(
            r"(?:sudo --preserve-env )?make ((?:[a-z-]+ ?)+)((?:[A-Z]+=(?:\$\{\{ \S+ \}\}|\S+) ?)*)", line.strip()
        )
        assert command, line
        assert set(command[1].split()) <= targets(), line


def test_a_pull_request_is_checked_tested_and_installed_as_the_readme_says() -> None:
    jobs = yaml.safe_load(text(".github/workflows/pull-request.yml"))["jobs"]
    runs = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert {"make check", "make test-fast", "make test-kind"} <= runs
    readme = re.findall(r"^\$ (helm install greenfleet) \S+ (.*)$", text("README.md"), re.MULTILINE)
    assert [f"{start} charts/greenfleet {rest}" for start, rest in readme] == re.findall(
        r"^helm install .*$", text("tools/kind.sh"), re.MULTILINE
    )
    assert "examples/minimal.yaml" in text("tools/kind.sh")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/project/maintainers.md", "README.md"])
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    named = set(
        re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)", " ".join(re.findall(r"`[^`]+`|^\$ .*$", text(page), re.MULTILINE)))
    )
    assert named
    assert named <= targets(), page
