"""The programs of the cluster, built once per version of their sources.

They are kept in the cache under a hash of everything that decides what comes out, so that a fresh clone of the same
revision finds them. The optional tools have modules of their own (`cluster/tools`, `cluster/helm3`,
`cluster/actionlint`, `cluster/registry`, `cluster/victoriametrics`, `cluster/prometheus`): what they need must not move
the versions that Kubernetes was released with.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from kubelocal import golang
from kubelocal.errors import ClusterError
from kubelocal.places import SOURCE, cache
from kubelocal.report import Report
from kubelocal.run import locked, run

_BUILD_FLAGS = ("-trimpath",)
_FORMAT = "1"
"""Raise it when the way of building changes in a way that the hash cannot see."""


@dataclass(frozen=True)
class Program:
    name: str
    package: str
    seconds: int
    """What a build takes on two idle cores, after those listed before it. Measured; for the progress line only."""
    module: Path = SOURCE
    """The Go module that pins its version."""

    @property
    def path(self) -> Path:
        """Where it is, built or not."""
        return directory(self.module) / self.name


PROGRAMS = (
    Program("etcd", "go.etcd.io/etcd/server/v3", 55),
    Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 200),
    Program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 95),
    Program("kubectl", "k8s.io/kubernetes/cmd/kubectl", 15),
    Program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 10),
    Program("kubelet", "k8s.io/kubernetes/cmd/kubelet", 25),
    Program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 10),
    Program("coredns", "./coredns", 15),
    Program("pause", "./pause", 2),
    Program("helm", "helm.sh/helm/v4/cmd/helm", 30),
)
CONTROL_PLANE_PROGRAMS = PROGRAMS[:4]

TOOLS = (
    Program("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", 15, SOURCE / "tools"),
    Program("kwok", "sigs.k8s.io/kwok/cmd/kwok", 60, SOURCE / "tools"),
    Program("helm3", "helm.sh/helm/v3/cmd/helm", 60, SOURCE / "helm3"),
    Program("actionlint", "github.com/rhysd/actionlint/cmd/actionlint", 10, SOURCE / "actionlint"),
    Program("registry", "github.com/distribution/distribution/v3/cmd/registry", 120, SOURCE / "registry"),
    Program(
        "victoria-metrics",
        "github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics",
        60,
        SOURCE / "victoriametrics",
    ),
    Program("prometheus", "github.com/prometheus/prometheus/cmd/prometheus", 240, SOURCE / "prometheus"),
)

_TAGS = {SOURCE / "prometheus": ("netgo", "remove_all_sd", "enable_kubernetes_sd")}
"""Build tags by module. Prometheus: of all ways to find targets, only the one that the chart uses; the others link
every cloud's SDK.
"""


def directory(module: Path = SOURCE) -> Path:
    """Where the programs of a module are in this revision, built or not."""
    own = (SOURCE / "coredns" / "main.go", SOURCE / "pause" / "main.go") if module == SOURCE else ()
    return cache() / "bin" / _hash(module, own)


def ensure(programs: tuple[Program, ...], report: Report) -> Path:
    """Build what is missing of the cluster's programs; return their directory."""
    _ensure(programs, module=SOURCE, report=report)
    return directory()


def ensure_named(names: list[str], report: Report) -> list[Path]:
    """Build what is missing of these programs, the cluster's own or optional ones; return their paths."""
    by_name = {program.name: program for program in (*PROGRAMS, *TOOLS)}
    unknown = sorted(set(names) - set(by_name))
    if unknown:
        raise ClusterError(f"Unknown program {unknown[0]!r}. There are: {', '.join(by_name)}.")
    chosen = tuple(by_name[name] for name in names)
    for module in dict.fromkeys(program.module for program in chosen):
        _ensure(tuple(one for one in chosen if one.module == module), module=module, report=report)
    return [program.path for program in chosen]


def _ensure(programs: tuple[Program, ...], *, module: Path, report: Report) -> None:
    target = directory(module)

    def missing() -> list[Program]:
        return [program for program in programs if not (target / program.name).exists()]

    if not missing():
        return
    with locked(
        cache() / "locks" / "build.lock", waiting=lambda: report.say("  … another build is running; waiting for it")
    ):
        todo = missing()
        if not todo:
            return
        go = golang.ensure(report)
        target.mkdir(parents=True, exist_ok=True)
        report.say(f"  building {len(todo)} programs, once for this version of {module.name}/go.mod, into {target}")
        for program in todo:
            with report.step(f"building {program.name}", usual_seconds=program.seconds):
                _build(go, program, module=module, target=target)


def _build(go: Path, program: Program, *, module: Path, target: Path) -> None:
    draft = target / f".{program.name}.{os.getpid()}"
    run(
        [
            "nice",
            "-n",
            "5",
            go,
            "build",
            *_flags(module),
            "-ldflags",
            _linker_flags(module),
            "-o",
            draft,
            program.package,
        ],
        cwd=module,
        env={"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"},
        log=cache() / "logs" / f"build-{program.name}.log",
    )
    draft.rename(target / program.name)


def _flags(module: Path) -> tuple[str, ...]:
    tags = _TAGS.get(module)
    return (*_BUILD_FLAGS, "-tags", ",".join(tags)) if tags else _BUILD_FLAGS


def _linker_flags(module: Path) -> str:
    """Without the version Kubernetes calls itself v0.0.0-master, and clients misjudge what the server can do."""
    found = re.search(r"^\s*k8s\.io/kubernetes v((\d+)\.(\d+)\.\d+)", (module / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        return "-s -w"
    variable = "-X k8s.io/component-base/version"
    return f"-s -w {variable}.gitVersion=v{found[1]} {variable}.gitMajor={found[2]} {variable}.gitMinor={found[3]}"


def _hash(module: Path, sources: tuple[Path, ...]) -> str:
    digest = hashlib.sha256(" ".join((_FORMAT, *_flags(module), _linker_flags(module))).encode())
    for path in (module / "go.mod", module / "go.sum", *sources):
        digest.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
