"""KEDA beside a running cluster, for benches that compare with it: built from its Go module, run as two plain
processes.

Nothing of KEDA is kept in this repository. Its module has replace directives, which only count in a main module: so its
source is copied out of the module cache and built where it lies. The API server reaches the metrics adapter through a
Service whose endpoint is the node's own address.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from kubelocal import binaries, golang, pki, topology
from kubelocal.api import Api
from kubelocal.errors import ClusterError
from kubelocal.places import Places, cache
from kubelocal.processes import Process, Supervisor
from kubelocal.report import Report
from kubelocal.run import locked, run, wait_until, write_if_changed
from kubelocal.topology import CLUSTER_DOMAIN, NODE_ADDRESS

MODULE, VERSION = "github.com/kedacore/keda/v2", "v2.21.0"
CHECKSUM = "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps="
NAMESPACE = "keda"
OPERATOR, ADAPTER = "keda-operator", "keda-adapter"
USER = "keda-operator"
"""What KEDA calls itself to the API server, and so in its audit log."""

OPERATOR_METRICS_PORT = 9555
_GRPC_PORT, _PROBE_PORT = 9666, 9556
_ADAPTER_PORT, _ADAPTER_METRICS_PORT = 6553, 9557
_SERVICE = "keda-metrics-apiserver"
_BUILD_SECONDS = {"operator": 720, "adapter": 60}
_READY_SECONDS = 60


def directory() -> Path:
    """Where this version of KEDA is, built or not."""
    return cache() / "keda" / VERSION


def ensure_built(report: Report) -> Path:
    """KEDA's operator, adapter and CustomResourceDefinitions, built once per version."""
    target = directory()

    def missing() -> list[str]:
        return [name for name in _BUILD_SECONDS if not (target / name).exists()]

    if not missing() and (target / "crds").is_dir():
        return target
    with locked(
        cache() / "locks" / "build.lock", waiting=lambda: report.say("  … another build is running; waiting for it")
    ):
        todo = missing()
        go = golang.ensure(report)
        target.mkdir(parents=True, exist_ok=True)
        source = _source(target, report)
        for name in todo:
            with report.step(f"building KEDA's {name}", usual_seconds=_BUILD_SECONDS[name]):
                _build(go, source, name, target)
        shutil.copytree(source / "config" / "crd" / "bases", target / "crds", dirs_exist_ok=True)
        shutil.rmtree(source)
    return target


def _source(target: Path, report: Report) -> Path:
    """A writable copy of the module."""
    source = target / "source"
    if (source / "go.mod").exists():
        return source
    draft = target / f".source.{os.getpid()}"
    shutil.copytree(golang.download(f"{MODULE}@{VERSION}={CHECKSUM}", report), draft)
    for path in (draft, *draft.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    draft.rename(source)
    return source


def _build(go: Path, source: Path, name: str, target: Path) -> None:
    draft = target / f".{name}.{os.getpid()}"
    run(
        ["nice", "-n", "5", go, "build", "-trimpath", "-ldflags", "-s -w", "-o", draft, f"./cmd/{name}"],
        cwd=source,
        env={"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"},
        log=cache() / "logs" / f"build-keda-{name}.log",
    )
    draft.rename(target / name)


def up(places: Places, report: Report) -> None:
    """Have KEDA running and its metrics API answering."""
    if not places.topology.exists() or not (chosen := topology.ensure(places, topology.Kind.FULL)).full:
        raise ClusterError("KEDA needs the full cluster. Start it with `cluster/kube up`.")
    programs = ensure_built(report)
    keys = pki.Pki(places.pki)
    api = Api(chosen, keys)
    if not api.ready():
        raise ClusterError(f"Cluster {places.name} does not answer. Start it with `cluster/kube up`.")
    kubeconfig = _identities(places, chosen, keys)
    kubectl = binaries.directory() / "kubectl"
    run(
        [
            kubectl,
            "--kubeconfig",
            places.kubeconfig,
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            programs / "crds",
        ]
    )
    if not wait_until(lambda: _established(api, programs / "crds"), seconds=_READY_SECONDS):
        raise ClusterError("KEDA's CustomResourceDefinitions are not established.")
    for path, manifest in _objects():
        api.apply(path, manifest)
    supervisor = Supervisor(places)
    certificates = _certificates(places, keys)
    started = supervisor.ensure(_operator(programs, kubeconfig, certificates))
    started |= supervisor.ensure(_adapter(programs, kubeconfig, certificates, keys))

    def answers() -> bool:
        for name in (OPERATOR, ADAPTER):
            supervisor.check(name)
        # A definition is Established a moment before its objects are served.
        served = ("/apis/external.metrics.k8s.io/v1beta1", "/apis/keda.sh/v1alpha1/scaledobjects")
        return all(api.get(path) is not None for path in served)

    if started:
        with report.step("KEDA's metrics API answers"):
            if not wait_until(answers, seconds=_READY_SECONDS):
                raise ClusterError(f"KEDA's metrics API does not answer. {supervisor.explain(ADAPTER)}")


def _established(api: Api, definitions: Path) -> bool:
    """Whether the API server has accepted every definition. (`kubectl wait` gives up on one that has no conditions
    yet.)
    """
    for path in definitions.glob("*.yaml"):
        group, _, plural = path.stem.partition("_")
        found = api.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{group}") or {}
        conditions = found.get("status", {}).get("conditions") or []
        if not any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
            return False
    return True


def down(places: Places) -> None:
    """Stop KEDA and take its objects and definitions out of the cluster."""
    Supervisor(places).stop([ADAPTER, OPERATOR])
    kubectl = binaries.directory() / "kubectl"
    command: list[str | Path] = [
        kubectl,
        "--kubeconfig",
        places.kubeconfig,
        "delete",
        "--ignore-not-found",
        "--wait=false",
    ]
    run([*command, "apiservice", "v1beta1.external.metrics.k8s.io"])
    run([*command, "namespace", NAMESPACE])
    crds = directory() / "crds"
    if crds.is_dir():
        run([*command, "-f", crds])


def _identities(places: Places, chosen: topology.Topology, keys: pki.Pki) -> Path:
    """Keys for KEDA's two halves; the kubeconfig that both use."""
    names = (
        f"DNS:{_SERVICE}",
        f"DNS:{_SERVICE}.{NAMESPACE}.svc",
        f"DNS:{_SERVICE}.{NAMESPACE}.svc.{CLUSTER_DOMAIN}",
        "DNS:localhost",
        "IP:127.0.0.1",
        f"IP:{NODE_ADDRESS}",
    )
    pki.ensure_certificate(keys, pki.Identity("keda", USER, "system:masters"))
    pki.ensure_certificate(keys, pki.Identity("keda-serving", "keda", names=names))
    kubeconfig = places.config / "keda.kubeconfig"
    write_if_changed(kubeconfig, pki.kubeconfig(keys, chosen, "keda"))
    return kubeconfig


def _certificates(places: Places, keys: pki.Pki) -> Path:
    """The directory that both halves read for the mTLS between them."""
    target = places.config / "keda-certificates"
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, source in (
        ("ca.crt", keys.certificate(pki.Authority.CLUSTER)),
        ("tls.crt", keys.certificate("keda-serving")),
        ("tls.key", keys.key("keda-serving")),
    ):
        write_if_changed(target / name, source.read_text())
    return target


def _environment(kubeconfig: Path) -> dict[str, str]:
    return {
        "KUBECONFIG": str(kubeconfig),
        "WATCH_NAMESPACE": "",
        "POD_NAMESPACE": NAMESPACE,
        "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE,
    }


def _operator(programs: Path, kubeconfig: Path, certificates: Path) -> Process:
    flags = (
        f"--metrics-bind-address=127.0.0.1:{OPERATOR_METRICS_PORT}",
        f"--health-probe-bind-address=127.0.0.1:{_PROBE_PORT}",
        f"--metrics-service-bind-address=127.0.0.1:{_GRPC_PORT}",
        f"--cert-dir={certificates}",
        "--enable-webhook-patching=false",
        "--enable-apiservice-patching=false",
        "--zap-log-level=error",
    )
    return Process(OPERATOR, (str(programs / "operator"), *flags), environment=_environment(kubeconfig))


def _adapter(programs: Path, kubeconfig: Path, certificates: Path, keys: pki.Pki) -> Process:
    flags = (
        f"--bind-address={NODE_ADDRESS}",
        f"--secure-port={_ADAPTER_PORT}",
        f"--port={_ADAPTER_METRICS_PORT}",
        f"--metrics-service-address=127.0.0.1:{_GRPC_PORT}",
        f"--cert-dir={certificates}",
        f"--tls-cert-file={certificates / 'tls.crt'}",
        f"--tls-private-key-file={certificates / 'tls.key'}",
        f"--client-ca-file={keys.certificate(pki.Authority.CLUSTER)}",
        f"--lister-kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
    )
    return Process(ADAPTER, (str(programs / "adapter"), *flags), environment=_environment(kubeconfig))


def _objects() -> list[tuple[str, dict[str, Any]]]:
    namespaced: dict[str, Any] = {"namespace": NAMESPACE, "name": _SERVICE}
    port: dict[str, Any] = {"name": "https", "port": 443, "protocol": "TCP"}
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": namespaced,
        "spec": {"ports": [{**port, "targetPort": _ADAPTER_PORT}]},
    }
    endpoints: dict[str, Any] = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**namespaced, "labels": {"kubernetes.io/service-name": _SERVICE}},
        "addressType": "IPv4",
        "ports": [{**port, "port": _ADAPTER_PORT}],
        "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
    }
    registration: dict[str, Any] = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
        "spec": {
            "service": {**namespaced, "port": 443},
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            # The way there does not leave this machine, and the bench measures no cryptography.
            "insecureSkipTLSVerify": True,
        },
    }
    return [
        (f"/api/v1/namespaces/{NAMESPACE}", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        (f"/api/v1/namespaces/{NAMESPACE}/services/{_SERVICE}", service),
        (f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{_SERVICE}", endpoints),
        ("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io", registration),
    ]
