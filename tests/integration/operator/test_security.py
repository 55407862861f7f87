"""What a tenant who may write pools in one namespace cannot do with them (SECURITY.md), on a real API server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import Namespace, Object, Operator, Refused, eventually, fresh_name


class Listener:
    """A Prometheus that knows nothing, and remembers every request that reaches it."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, list[str]]]] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listener.requests.append((self.path, {}))
                self._answer()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                listener.requests.append((self.path, parse_qs(body)))
                self._answer()

            def _answer(self) -> None:
                text = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                """Silence."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def queries(self) -> set[str]:
        """Every PromQL expression that came."""
        found: set[str] = set()
        for path, form in self.requests:
            found |= {*form.get("query", ()), *parse_qs(urlsplit(path).query).get("query", ())}
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture(scope="module")
def world(make_world: WorldMaker) -> World:
    """One operator; no pod runs, so whatever reaches a listener came from the operator."""
    made = make_world("security", runs=lambda pod: False)
    made.operator().start()
    return made


@pytest.fixture
def pool(world: World) -> Iterator[str]:
    name = fresh_name("tenant")
    yield name
    world.namespace.delete_pool(name, wait=False)


def _ticks(operator: Operator) -> float:
    return operator.metric("greenfleet_loop_duration_seconds_count") or 0.0


def _await_ticks(operator: Operator, count: int) -> None:
    before = _ticks(operator)
    eventually(lambda: _ticks(operator) >= before + count, f"{count} more looks at all pools")


FORBIDDEN: dict[str, tuple[Object, str]] = {
    "a Secret of another namespace": (
        {"broker": {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url", "namespace": "kube-system"}}}},
        "secretKeyRef.namespace",
    ),
    "a Secret by a path": (
        {"broker": {"urlFrom": {"secretKeyRef": {"name": "../kube-system/token", "key": "url"}}}},
        "secretKeyRef.name",
    ),
    "a Secret of another namespace, in parts": (
        {
            "broker": {
                "transport": "redis",
                "host": {"secretKeyRef": {"name": "broker", "key": "url", "namespace": "kube-system"}},
            }
        },
        "secretKeyRef.namespace",
    ),
    "a Prometheus by its address": (
        {"scaling": {"prometheus": {"server": "http://evil.example:9090"}}},
        "prometheus.server",
    ),
    "a source by its query": ({"scaling": {"prometheus": {"source": "up} or vector(0"}}}, "prometheus.source"),
    "PromQL in a queue's name": ({"queues": ['feeds"} or vector(0) or up{x="']}, "spec.queues[0]"),
    "a line break in a queue's name": ({"queues": ["feeds\nup"]}, "spec.queues[0]"),
    "root": ({"worker": {"securityContext": {"runAsUser": 0}}}, "runAsUser"),
    "a privileged container": ({"worker": {"securityContext": {"privileged": True}}}, "privileged"),
    "a privilege for its child": ({"worker": {"securityContext": {"allowPrivilegeEscalation": True}}}, "allowPrivil"),
    "a capability": ({"worker": {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}}, "capabilities"),
    "the node's network": ({"worker": {"hostNetwork": True}}, "hostNetwork"),
    "the node's files": ({"worker": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}, "hostPath"),
    "a token of its own making": ({"worker": {"volumes": [{"name": "v", "projected": {"sources": []}}]}}, "projected"),
    "a second container": ({"worker": {"containers": [{"name": "x", "image": "x"}]}}, "containers"),
    "no AppArmor": (
        {"worker": {"annotations": {"container.apparmor.security.beta.kubernetes.io/worker": "unconfined"}}},
        "worker.annotations",
    ),
    "the worker's own settings": (
        {"worker": {"env": [{"name": "GREENWORKER_POOL", "value": "shop/other"}]}},
        "worker.env",
    ),
    "another broker than the reference": (
        {"worker": {"env": [{"name": "CELERY_BROKER_URL", "value": "redis://evil.example"}]}},
        "worker.env",
    ),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_the_resource_has_no_words_for_it(case: str, world: World, pool: str) -> None:
    spec, field = FORBIDDEN[case]
    with pytest.raises(Refused) as refused:
        world.namespace.apply_pool(pool, **spec)
    assert field in refused.value.message


def test_an_unknown_field_that_a_client_forces_in_is_dropped_and_not_obeyed(world: World, pool: str) -> None:
    shop = world.namespace
    spec = {
        "app": "hub_app",
        "image": "registry.example/hub:1",
        "queues": [pool],
        "broker": {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url", "namespace": "kube-system"}}},
        "worker": {"hostNetwork": True, "securityContext": {"privileged": True}},
    }
    body = {
        "apiVersion": "greenfleet.io/v1alpha1",
        "kind": "GreenWorkerPool",
        "metadata": {"name": pool, "namespace": shop.name},
        "spec": spec,
    }
    shop.api.ask("POST", shop.path("greenworkerpools"), body, fieldValidation="Ignore")
    deployment = eventually(lambda: shop.deployment(pool), "the workers' Deployment")
    assert "namespace" not in shop.pool(pool)["spec"]["broker"]["urlFrom"]["secretKeyRef"]
    assert deployment["metadata"]["namespace"] == shop.name
    text = json.dumps(deployment["spec"])
    assert "hostNetwork" not in text
    assert "privileged" not in text.replace("unprivileged", "")


def test_the_operator_reaches_no_address_that_a_pool_brings(world: World, pool: str, listener: Listener) -> None:
    """Everything that a pool can put an address into; and nobody calls."""
    shop = world.namespace
    address = f"http://{listener.address}/x"
    shop.secret(f"{pool}-url", url=f"redis://{listener.address}/0", ca=address)
    shop.apply_pool(
        pool,
        app="hub_app",
        image=f"{listener.address}/hub:1",
        broker={"urlFrom": {"secretKeyRef": {"name": f"{pool}-url", "key": "url"}}, "keyPrefix": "x"},
        resultBackend={"urlFrom": {"secretKeyRef": {"name": f"{pool}-url", "key": "url"}}},
        scaling={"prometheus": {"query": f'up{{instance="{listener.address}"}}'}},
        worker={"env": [{"name": "HTTP_PROXY", "value": address}], "annotations": {"prometheus.io/path": address}},
    )
    eventually(lambda: shop.deployment(pool), "the operator looks after it")
    host, _, port = listener.address.partition(":")
    parts = {"transport": "redis", "host": {"value": host}, "port": {"value": int(port)}}
    shop.apply_pool(pool, app="hub_app", image="hub:1", broker=parts, resultBackend=parts)
    eventually(lambda: "GREENWORKER_BROKER_HOST" in str(shop.deployment(pool)), "the address is the workers'")
    _await_ticks(world.operators[0], 4)
    assert listener.requests == []


def test_queries_are_the_same_whatever_pools_say(make_world: WorldMaker, listener: Listener) -> None:
    """Nothing of a pool is ever part of a query, so there is nothing to inject into."""
    world = make_world("queries", runs=lambda pod: False)
    operator = world.operator(prometheus={"servers": {"default": {"url": f"http://{listener.address}"}}})
    operator.start()
    shop = world.namespace
    shop.apply_pool("plain")
    eventually(lambda: len(listener.queries()) >= 2, "depths and workers are asked for", 30, operator.tail)
    _await_ticks(operator, 4)
    before = listener.queries()
    shop.apply_pool(
        "strange",
        queues=["a.b:c/d-e", "sum", "or"],
        broker={"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}, "keyPrefix": "{x}:"},
    )
    eventually(lambda: shop.deployment("strange"), "the operator looks after it")
    _await_ticks(operator, 8)
    assert listener.queries() == before
    assert not [query for query in before if shop.name in query or "strange" in query]
    operator.stop()


def test_a_pool_hears_nothing_of_a_pool_in_another_namespace(world: World, make_world: WorldMaker) -> None:
    """The same names everywhere, and a mark in everything that the other one says."""
    theirs = make_world("theirs", runs=lambda pod: False)
    operator = theirs.operator(namespaces=[world.namespace.name, theirs.namespace.name])
    world.operators[0].stop()
    operator.start()
    mark = "sesame"
    try:
        for namespace, extra in ((world.namespace, {}), (theirs.namespace, _marked(mark))):
            namespace.apply_pool("feeds", queues=["feeds"], **extra)
        theirs.namespace.await_condition("feeds", "Stalled", "True")
        eventually(lambda: world.namespace.deployment("feeds"), "ours is looked after")
        _await_ticks(operator, 4)
        ours = _everything(world.namespace)
        assert world.namespace.condition("feeds", "Stalled")["status"] == "False", (
            "the same queue is another's business"
        )
        assert mark not in ours
        assert theirs.namespace.name not in ours
    finally:
        operator.stop()
        world.namespace.delete_pool("feeds", wait=False)
        world.operators[0].start()


def _marked(mark: str) -> Object:
    return {
        "app": mark,
        "image": f"registry.example/{mark}:1",
        "scaling": {"prometheus": {"server": mark}},
        "worker": {"env": [{"name": "TOKEN", "value": mark}], "labels": {"team": mark}},
        "prefork": {"tasks": [f"{mark}.*"]},
    }


def _everything(namespace: Namespace) -> str:
    """All that a tenant can read of their own namespace."""
    kinds = ("greenworkerpools", "events", "deployments", "configmaps", "pods", "poddisruptionbudgets")
    return json.dumps([namespace.api.items(namespace.path(kind)) for kind in kinds])
