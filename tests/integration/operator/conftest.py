"""Fixtures of the operator's integration tests: one control plane for all, one small world per namespace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.operator.harness import (
    Api,
    Kubelet,
    Namespace,
    Object,
    Operator,
    Prometheus,
    control_plane,
    define_pools,
    fresh_name,
)
from tests.integration.worker.harness import Redis

CLUSTER = os.environ.get("GREENFLEET_TESTS_CLUSTER", "greenfleet-operator-tests")


@pytest.fixture(scope="session")
def api() -> Iterator[Api]:
    """A real API server and controller manager with our CRD."""
    with control_plane(CLUSTER) as client:
        define_pools(client)
        yield client


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """One Redis for all tests; each uses queues of its own name."""
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One Prometheus for all tests that do not hurt it."""
    server = Prometheus(tmp_path_factory.mktemp("prometheus"))
    yield server
    server.stop()


@dataclass
class World:
    """A namespace with a broker's Secret, the stand-in for kubelet, and whatever operators a test starts."""

    namespace: Namespace
    kubelet: Kubelet
    prometheus: Prometheus
    redis: Redis
    directory: Path
    operators: list[Operator]

    def operator(self, name: str = "operator-1", **settings: object) -> Operator:
        """A new replica, not yet started; stopped at the end of the test."""
        made = Operator(self.directory, self.namespace, self.prometheus.url, name, **settings)
        self.operators.append(made)
        return made

    def close(self) -> None:
        """Nothing that was started here is left."""
        for operator in self.operators:
            operator.stop()
        self.kubelet.stop()


WorldMaker = Callable[..., World]


@pytest.fixture(scope="module")
def make_world(
    api: Api, redis: Redis, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorldMaker]:
    """`make_world("name", runs=…, server=…, binds=…)`: worlds that end with the module."""
    worlds: list[World] = []

    def make(
        prefix: str,
        runs: Callable[[Object], bool] = lambda pod: True,
        server: Prometheus | None = None,
        *,
        binds: bool = True,
    ) -> World:
        directory = tmp_path_factory.mktemp(prefix)
        namespace = Namespace(api, fresh_name(prefix))
        namespace.secret("broker", url=redis.url)
        chosen = server or prometheus
        kubelet = Kubelet(namespace, directory / "pods", chosen, runs, binds=binds)
        world = World(namespace, kubelet, chosen, redis, directory, [])
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        world.close()


@pytest.fixture(autouse=True)
def no_bug_was_logged(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does to it, the operator never says that it has a bug."""
    worlds = _worlds(request)  # before the test, so that they are still there after it
    yield
    for world in worlds:
        for operator in world.operators:
            assert "a bug of ours" not in operator.text(), operator.tail(60)
            assert "Traceback" not in operator.text(), operator.tail(60)


def _worlds(request: pytest.FixtureRequest) -> list[World]:
    found = [request.getfixturevalue(name) for name in ("world", "calm_world") if name in request.fixturenames]
    return [world for world in found if isinstance(world, World)]


__all__ = ["World", "WorldMaker"]
