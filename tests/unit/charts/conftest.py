"""Renders charts with the real helm: that of the project's cluster, or the one on PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.charts.rendering import CHARTS, REPOSITORY, Manifests, Render, RenderText

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same in C, where PyYAML has it: eight times as fast on 6,000 lines."""


def _helm() -> str | None:
    kube = subprocess.run(
        [sys.executable, str(REPOSITORY / "cluster" / "kube"), "path"], check=False, capture_output=True, text=True
    )
    built = Path(kube.stdout.strip()) / "helm" if kube.returncode == 0 and kube.stdout.strip() else None
    return os.environ.get("HELM") or (str(built) if built and built.exists() else shutil.which("helm"))


@pytest.fixture(scope="session")
def helm() -> str:
    """Path of helm. Where the tools must be there (`GREENFLEET_TOOLS_REQUIRED`, set in CI), their absence is a
    failure.
    """
    found = _helm()
    if found is None and os.environ.get("GREENFLEET_TOOLS_REQUIRED"):
        pytest.fail("helm was not found: `cluster/kube up` builds it, or set HELM")
    if found is None:
        pytest.skip("helm was not found: `cluster/kube up` builds it, or set HELM")
    return found


@pytest.fixture(scope="session")
def render_text(helm: str, tmp_path_factory: pytest.TempPathFactory) -> RenderText:
    """`render_text("greenfleet", {...values})`: what helm writes, or subprocess.CalledProcessError with its words in
    stderr.

    What `helm test` would make is there with `tests=True` only.
    """
    home = tmp_path_factory.mktemp("helm")

    def rendered(
        chart: str,
        values: dict[str, Any] | None = None,
        *,
        namespace: str = "greenfleet-system",
        tests: bool = False,
    ) -> str:
        file = home / "values.yaml"
        file.write_text(yaml.safe_dump(values or {}), encoding="utf-8")
        done = subprocess.run(
            [helm, "template", chart, str(CHARTS / chart), "--namespace", namespace, "--values", str(file)]
            + ([] if tests else ["--skip-tests"]),
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": str(home)},
        )
        return done.stdout

    return rendered


@pytest.fixture(scope="session")
def render(render_text: RenderText) -> Render:
    """The same, as manifests."""

    def rendered(chart: str, values: dict[str, Any] | None = None, **options: Any) -> Manifests:
        return [document for document in yaml.load_all(render_text(chart, values, **options), LOADER) if document]

    return rendered
