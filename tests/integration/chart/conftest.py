"""A real API server of these tests' own: releases come and go on it, and with them the CustomResourceDefinition."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.operator.harness import (
    REPOSITORY,
    Api,
    Namespace,
    Refused,
    cluster,
    control_plane,
    eventually,
    fresh_name,
)

CLUSTER = os.environ.get("GREENFLEET_TESTS_CLUSTER", "greenfleet") + "-chart-tests"
CHART = REPOSITORY / "charts" / "greenfleet"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/greenworkerpools.greenfleet.io"


@pytest.fixture(scope="session")
def chart_api() -> Iterator[Api]:
    """A real API server and controller manager, with nothing of ours on it."""
    with control_plane(CLUSTER) as client:
        yield client


@dataclass
class Release:
    """One release in a namespace of its own, by one version of helm."""

    helm: Path
    namespace: Namespace
    name: str
    home: Path

    @property
    def api(self) -> Api:
        return self.namespace.api

    def run(self, *arguments: str, check: bool = True) -> str:
        """What helm says. The pods of a release never become ready here: nothing runs them."""
        done = subprocess.run(
            [str(self.helm), *arguments, "--namespace", self.namespace.name],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "KUBECONFIG": str(self.api.kubeconfig), "HOME": str(self.home)},
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def install(self, chart: Path = CHART, *options: str, **values: Any) -> str:
        """Installs or upgrades; what helm says, notes included."""
        file = self.home / "values.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return self.run("upgrade", "--install", self.name, str(chart), "--values", str(file), *options)

    def uninstall(self) -> None:
        """And nothing is said if it is not there."""
        self.run("uninstall", self.name, "--ignore-not-found", "--wait=hookOnly" if self.is_four else "--wait=false")

    @property
    def is_four(self) -> bool:
        """Helm 4, or else 3."""
        return self.helm.name == "helm"

    def crd_is_served(self) -> None:
        """Waits until pools can be written."""
        eventually(lambda: self.api.find("/apis/greenfleet.io/v1alpha1"), "the resource is served")
        eventually(lambda: _can_list(self.api), "pools can be listed")


def _can_list(api: Api) -> bool:
    try:
        api.get("/apis/greenfleet.io/v1alpha1/greenworkerpools")
    except Refused:
        return False
    return True


def _program(name: str) -> Path:
    return Path(cluster("program", name))


@pytest.fixture(params=["helm", pytest.param("helm3", marks=pytest.mark.slow)], ids=["helm 4", "helm 3"])
def release(request: pytest.FixtureRequest, chart_api: Api, tmp_path: Path) -> Iterator[Release]:
    """Nothing of it is left at the end, the CRD included."""
    made = Release(_program(request.param), Namespace(chart_api, fresh_name("release")), "greenfleet", tmp_path)
    yield made
    made.uninstall()
    chart_api.delete(CRD)
    eventually(lambda: chart_api.find(CRD) is None, "the CRD is gone", 60)
