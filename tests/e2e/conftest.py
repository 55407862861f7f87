"""One real cluster for all end-to-end tests: images from the Dockerfile, charts by helm, brokers and Prometheus
inside.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from demo import stage as demo_stage
from demo.api import GROUP, Api, ApiError

KUBE = Path(__file__).resolve().parents[2] / "cluster" / "kube"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "feedhub.yaml"


@dataclass(frozen=True)
class Cluster:
    """The running stage, and short ways to it."""

    stage: demo_stage.Stage
    api: Api

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Output of kubectl; with check, a failure fails the test with what kubectl said."""
        command = [str(self.stage.helm.parent / "kubectl"), *arguments]
        environment = {**os.environ, "KUBECONFIG": str(self.stage.kubeconfig)}
        finished = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)
        if check:
            assert finished.returncode == 0, f"{' '.join(command)}\n{finished.stdout}\n{finished.stderr}"
        return finished.stdout + finished.stderr

    @contextmanager
    def kubectl_in_the_background(self, *arguments: str, stdout: IO[bytes]) -> Iterator[None]:
        """kubectl that goes on, such as one that watches, until the block ends."""
        command = [str(self.stage.helm.parent / "kubectl"), *arguments]
        with subprocess.Popen(
            command, stdout=stdout, env={**os.environ, "KUBECONFIG": str(self.stage.kubeconfig)}
        ) as run:
            try:
                yield
            finally:
                run.terminate()

    def pool(self, name: str) -> dict[str, Any]:
        """A GreenWorkerPool of the demo's namespace."""
        return self.api.get(demo_stage.pool_path(demo_stage.NAMESPACE, name))

    def condition(self, name: str, condition_type: str) -> dict[str, Any]:
        """One condition of a pool; empty while there is none."""
        conditions = (self.pool(name).get("status") or {}).get("conditions") or []
        return next((found for found in conditions if found["type"] == condition_type), {})

    def apply(self, name: str, **changes: Any) -> dict[str, Any]:
        """Applies the example's pool under another name and queue, with changes to its spec."""
        body = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
        body["metadata"]["name"] = name
        body["spec"]["queues"] = [name]
        body["spec"].update(changes)
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
        return body


def await_condition(what: str, done: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The first true value of `done`; fails with `what` after a deadline."""
    deadline = time.monotonic() + seconds
    last: Any = None
    while time.monotonic() < deadline:
        try:
            if last := done():
                return last
        except ApiError as error:
            last = error
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds:.0f} s: {what}; last seen: {last!r}")


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The machine's own cluster with the operator and the demo's brokers; stays up, as `make demo-down` says."""
    place = demo_stage.local()
    api = Api(place.kubeconfig)
    revisions = demo_stage.build_images(lambda name: None)
    demo_stage.install_charts(place, api, revisions)
    return Cluster(place, api)


@pytest.fixture
def pool_name(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for a pool of this test's own; whatever is called so is deleted afterwards."""
    name = request.node.name.split("[")[0].replace("test_", "")[:40].replace("_", "-").strip("-")
    yield name
    cluster.api.delete(f"{GROUP}/namespaces/{demo_stage.NAMESPACE}/greenworkerpools/{name}")
