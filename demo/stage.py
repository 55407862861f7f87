"""Sets the stage: a cluster, the images, the two charts and the pool; and removes it all again."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import greenfleet
from demo.api import GROUP, Api, ApiError, condition, load, pool_path
from demo.observer import OPERATOR_NAMESPACE
from demo.shell import KUBE, REPOSITORY, StepError, run

NAMESPACE = "demo"
POOL_FILE = REPOSITORY / "examples" / "feedhub.yaml"
VERSION = greenfleet.__version__
"""Version of operator and worker image: the charts' appVersion."""
DEMO_TAG = "demo"
READY_SECONDS = 120.0

_RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


@dataclass(frozen=True, slots=True)
class Image:
    """One image that the demo needs."""

    name: str
    tag: str
    build: tuple[str, ...]
    """Arguments of `cluster/kube image build`."""
    sources: tuple[str, ...] = ()
    """What its pods should be replaced for when it changes."""

    def reference(self, prefix: str) -> str:
        """Name under which the cluster finds it."""
        return f"{prefix}{self.name}:{self.tag}"


_FEEDHUB = "examples/feedhub"
IMAGES = (
    Image("operator", VERSION, ("operator",), ("Dockerfile", "requirements/operator.lock", "operator")),
    Image("worker", VERSION, ("worker",)),
    Image("feedhub", DEMO_TAG, ("feedhub", "--file", f"{_FEEDHUB}/Dockerfile", "--context", _FEEDHUB), (_FEEDHUB,)),
    Image("redis", DEMO_TAG, ("redis",)),
    Image("prometheus", DEMO_TAG, ("prometheus",)),
)
LOCAL_PREFIX = "greenfleet/"
LOCAL_PROMETHEUS = {"repository": f"{LOCAL_PREFIX}prometheus", "tag": DEMO_TAG}
"""The same program, built on this machine, in place of the image that the chart names."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo takes place."""

    kubeconfig: Path
    helm: Path
    prefix: str
    """In front of every image's name; ends with a slash."""
    local: bool
    """The cluster is ours: images are built and loaded here."""


def local() -> Stage:
    """This machine's own cluster, started or repaired."""
    run([KUBE, "up"], visible=True)
    kubeconfig = Path(run([KUBE, "kubeconfig"]))
    return Stage(kubeconfig, Path(run([KUBE, "path"])) / "helm", LOCAL_PREFIX, local=True)


def given(kubeconfig: Path, prefix: str) -> Stage:
    """The user's cluster; its images are the user's too."""
    found = shutil.which("helm")
    helm = Path(found) if found else Path(run([KUBE, "path"])) / "helm"
    if not helm.exists():
        raise StepError("helm was not found: install it, or run `cluster/kube up` once, which builds one")
    ending = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
    return Stage(kubeconfig, helm, ending or LOCAL_PREFIX, local=False)


def build_images(tell: Callable[[str], None]) -> dict[str, str]:
    """Build and load all images; return what tells one build of each from another."""
    revisions = {}
    for image in IMAGES:
        tell(image.name)
        run([KUBE, "image", "build", *image.build, "--tag", image.reference(LOCAL_PREFIX)], visible=True)
        revisions[image.name] = revision(image.sources)
    return revisions


def revision(sources: Iterable[str]) -> str:
    """Short hash of files and directories of this repository."""
    result = hashlib.sha256()
    for source in sources:
        top = REPOSITORY / source
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                result.update(f"{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes())
    return result.hexdigest()[:12]


def install_charts(stage: Stage, api: Api, revisions: dict[str, str]) -> None:
    """Install or upgrade both charts and wait until their pods are ready.

    The images keep their tags while one works on them, so the revision goes into an annotation: a new build replaces
    the pods, an old one leaves them alone.
    """
    for namespace in (OPERATOR_NAMESPACE, NAMESPACE):
        metadata = {"name": namespace, "labels": _RESTRICTED}
        api.apply(f"/api/v1/namespaces/{namespace}", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    settings = [f"images.{name}.repository={stage.prefix}{name}" for name in ("redis", "feedhub")]
    settings.append(f"images.revision={revisions.get('feedhub', '')}")
    _helm(stage, "demo", "charts/demo", NAMESPACE, settings)
    settings = [
        f"image.repository={stage.prefix}operator",
        f"workerImage.repository={stage.prefix}worker",
        f"podAnnotations.greenfleet-demo/revision={revisions.get('operator', '')}",
    ]
    if stage.local:  # the official image cannot be pulled here
        settings += [f"prometheus.bundled.image.{key}={value}" for key, value in LOCAL_PROMETHEUS.items()]
    _helm(stage, "greenfleet", "charts/greenfleet", OPERATOR_NAMESPACE, settings)


def _helm(stage: Stage, release: str, chart: str, namespace: str, settings: list[str]) -> None:
    mend(stage, release, namespace)
    command: list[str | Path] = [stage.helm, "upgrade", "--install", release, chart, "--namespace", namespace]
    for setting in settings:
        command += ["--set-string" if "nnotations" in setting or "revision" in setting else "--set", setting]
    run([*command, "--wait", "--timeout", "4m"], env={"KUBECONFIG": str(stage.kubeconfig)})


def mend(stage: Stage, release: str, namespace: str) -> None:
    """Remove what a helm that was interrupted has left: it refuses to go on with a release that is neither there nor
    gone.
    """
    env = {"KUBECONFIG": str(stage.kubeconfig)}
    try:
        said = run([stage.helm, "status", release, "--namespace", namespace, "--output", "json"], env=env)
    except StepError:
        return  # there is none
    if json.loads(said)["info"]["status"] != "deployed":
        run([stage.helm, "uninstall", release, "--namespace", namespace, "--ignore-not-found", "--wait"], env=env)


def apply_pool(stage: Stage, api: Api, *, scaling: Mapping[str, str]) -> dict[str, Any]:
    """Apply the pool from examples/, with the image's name as it is here, and with changes to `spec.scaling`."""
    pool = load(POOL_FILE)
    pool["spec"]["scaling"] |= scaling
    pool["spec"]["image"] = next(image for image in IMAGES if image.name == "feedhub").reference(stage.prefix)
    api.apply(pool_path(NAMESPACE, pool["metadata"]["name"]), pool)
    return pool


def await_ready(api: Api, name: str, *, timeout_seconds: float = READY_SECONDS) -> None:
    """Wait until the pool is Ready and sees its load; where that does not come, say what the operator says."""

    def ready() -> bool:
        found = api.get(pool_path(NAMESPACE, name))
        generation = (found.get("status") or {}).get("observedGeneration")
        states = [(condition(found, kind) or {}).get("status") for kind in ("Ready", "MetricsAvailable")]
        return states == ["True", "True"] and generation == found["metadata"]["generation"]

    if not until(ready, timeout_seconds):
        raise StepError(
            f"the pool {NAMESPACE}/{name} is not Ready after {timeout_seconds:.0f} s\n{_conditions(api, name)}"
        )


def clear(api: Api, name: str, *, timeout_seconds: float = 120.0) -> None:
    """Throw away what an interrupted run left in the queue, and wait for zero workers."""
    state = api.service(NAMESPACE, "producer", 8081, "/state")
    if not state["finished"]:
        api.delete(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector="app.kubernetes.io/name=producer")
        until(lambda: api.service(NAMESPACE, "producer", 8081, "/state")["finished"], timeout_seconds)
    api.post(NAMESPACE, "producer", 8081, "/purge")
    selector = f"greenfleet.io/pool={name},greenfleet.io/role=eventlet"
    if not until(
        lambda: not api.items(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector=selector), timeout_seconds
    ):
        raise StepError(
            f"workers of an earlier run are still there after {timeout_seconds:.0f} s\n{_conditions(api, name)}"
        )


def until(done: Callable[[], bool], timeout_seconds: float, *, every_seconds: float = 0.5) -> bool:
    """Ask until the answer is yes; an API that does not answer is asked again."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            if done():
                return True
        except ApiError:
            pass
        time.sleep(every_seconds)
    return False


def remove(stage: Stage, api: Api) -> None:
    """Take the demo out of a cluster that stays: pools first, so that the operator is not needed for it afterwards."""
    try:
        api.delete(f"{GROUP}/namespaces/{NAMESPACE}/greenworkerpools")
    except ApiError as error:
        raise StepError(f"the pools in {NAMESPACE} cannot be deleted: {error}") from None
    env = {"KUBECONFIG": str(stage.kubeconfig)}
    for release, namespace in (("greenfleet", OPERATOR_NAMESPACE), ("demo", NAMESPACE)):
        run([stage.helm, "uninstall", release, "--namespace", namespace, "--ignore-not-found"], env=env)
    places = [f"/api/v1/namespaces/{namespace}" for namespace in (NAMESPACE, OPERATOR_NAMESPACE)]
    for place in places:
        api.delete(place)
    if not until(lambda: all(api.find(place) is None for place in places), 120):
        raise StepError(f"the namespaces {NAMESPACE} and {OPERATOR_NAMESPACE} are still being deleted after 120 s")


def _conditions(api: Api, name: str) -> str:
    try:
        pool = api.get(pool_path(NAMESPACE, name))
    except ApiError as error:
        return str(error)
    conditions = (pool.get("status") or {}).get("conditions") or []
    lines = [f"  {entry['type']}={entry['status']} {entry['reason']}: {entry['message']}" for entry in conditions]
    return "\n".join(lines) or "  it has no conditions: does the operator run? See `python -m demo logs`"
