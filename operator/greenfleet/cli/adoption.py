"""From a hand-written Deployment of Celery workers to the pool that takes its place. Pure.

Nothing is dropped without a message: what has no place in a pool is an obstacle until the user says to leave it out,
and what becomes different is a note.
"""

from __future__ import annotations

import difflib
import re
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import yaml

from greenfleet.api import API_VERSION, GROUP, KIND, parse_pool
from greenfleet.api.pool import RESERVED_VARIABLE, URL_PARTS, InvalidPoolError, PoolSpec
from greenfleet.cli.celery_command import CeleryCommand, OtherProgramError, UnreadableCommandError, parse
from greenfleet.manifests.names import Role
from greenfleet.manifests.worker import GRACE_MARGIN_SECONDS, fleet_deployment
from greenfleet.redaction import redacted

Object = dict[str, Any]

ADOPTED_ANNOTATION = f"{GROUP}/adopted-from"
"""On the pool: the Deployment that it took the place of."""

_BROKER_NAMES = (
    "CELERY_BROKER_URL",
    "BROKER_URL",
    "CELERY_BROKER",
    "REDIS_URL",
    "RABBITMQ_URL",
    "AMQP_URL",
    "CLOUDAMQP_URL",
)
_RESULT_NAME = "CELERY_RESULT_BACKEND"
_PART = r"\$\([A-Za-z_][A-Za-z0-9_.-]*\)|[^\s:/?#@$;]*"
_WRITTEN_URL = re.compile(
    rf"(?P<transport>rediss?|amqps?)://((?P<username>{_PART})(:(?P<password>{_PART}))?@)?(?P<host>{_PART})"
    rf"(:(?P<port>{_PART}))?(/(?P<path>{_PART}))?/?"
)
_EACH_SENDS = "several workers would send each periodic task several times"
_BEAT_ALONE = "a Deployment of its own with one replica and the strategy Recreate (examples/beat.yaml)"
_VOLUME_KINDS = ("secret", "configMap", "emptyDir", "persistentVolumeClaim")
_OWN_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user said on the command line."""

    name: str | None = None
    container: str | None = None
    app: str | None = None
    queues: tuple[str, ...] = ()
    broker_secret: str | None = None
    result_secret: str | None = None
    to_eventlet: bool = False
    drop: frozenset[str] = frozenset()


@dataclass(slots=True)
class Adoption:
    """The pool, and what its author should know."""

    pool: Object = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What will be different."""
    obstacles: list[str] = field(default_factory=list)
    """Field, value, reason and fix of what stands in the way."""


def plan(deployment: Object, wishes: Wishes) -> Adoption:
    """The pool for a Deployment. With obstacles the pool may be incomplete."""
    found = Adoption()
    pod = deployment["spec"]["template"]["spec"]
    if all(_program(container) == "beat" for container in pod["containers"]):
        found.obstacles.append(_beat(deployment))  # no option makes a worker of it
        return found
    container, command = _container(pod, wishes, found)
    if container is None:
        return found
    spec: Object = {"app": wishes.app or command.options.get("app", ""), "image": container["image"]}
    if not spec["app"]:
        found.obstacles.append(f"the command of container {container['name']} names no app (-A): say it with --app")
    if container.get("imagePullPolicy"):
        spec["imagePullPolicy"] = container["imagePullPolicy"]
    if pod.get("imagePullSecrets"):
        spec["imagePullSecrets"] = pod["imagePullSecrets"]
    environment = _environment(container, spec, command, wishes, found)
    spec["queues"] = list(wishes.queues) or command.queues
    spec.update(_size(deployment, command, wishes, found))
    spec.update(_limits(pod, command, found))
    spec["worker"] = {
        **({"env": environment} if environment else {}),
        **_worker(deployment, container, command, wishes=wishes, found=found),
    }
    metadata = deployment["metadata"]
    found.pool = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": wishes.name or metadata["name"],
            "namespace": metadata["namespace"],
            "annotations": {ADOPTED_ANNOTATION: metadata["name"]},
        },
        "spec": {name: value for name, value in spec.items() if value not in ({}, [], None)},
    }
    if not found.obstacles:
        try:
            found.obstacles += [f"the pool would be invalid: {text}" for text in _parsed(found.pool).out_of_bounds]
        except InvalidPoolError as error:
            found.obstacles.append(f"the pool would be invalid: {error}")
    return found


def difference(deployment: Object, pool: Object) -> list[str]:
    """What the pods of the pool have that the old ones have not, and the reverse, as a unified diff."""
    new = fleet_deployment(_parsed(pool), Role.EVENTLET, "the operator's worker image", "IfNotPresent")
    before, after = _pod_text(deployment["spec"]["template"]), _pod_text(new["spec"]["template"])
    names = f"Deployment/{deployment['metadata']['name']}", f"Deployment/{new['metadata']['name']}"
    return list(difflib.unified_diff(before, after, *names, n=2, lineterm=""))


def _parsed(pool: Object) -> Any:
    return parse_pool({**pool, "metadata": {**pool["metadata"], "uid": ""}})


_DEFAULTS: Object = {
    "dnsPolicy": "ClusterFirst",
    "restartPolicy": "Always",
    "schedulerName": "default-scheduler",
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "securityContext": {},
    "resources": {},
    "serviceAccount": None,
}
"""What the API server fills in: no news in a difference."""


def _pod_text(template: Object) -> list[str]:
    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: shown(child)
                for name, child in sorted(value.items())
                if name != "serviceAccount" and not (name in _DEFAULTS and child == _DEFAULTS[name])
            }
        return [shown(child) for child in value] if isinstance(value, list) else value

    metadata = template.get("metadata") or {}
    kept = {
        "metadata": {name: metadata.get(name) or {} for name in ("annotations", "labels")},
        "spec": template["spec"],
    }
    text = yaml.safe_dump(shown(kept), sort_keys=True, width=120, allow_unicode=True)
    return redacted(text).splitlines()


def _container(pod: Object, wishes: Wishes, found: Adoption) -> tuple[Object | None, CeleryCommand]:
    """The container that runs Celery, with its command; the others are obstacles."""
    candidates: list[tuple[Object, CeleryCommand]] = []
    complaints = []
    for container in pod["containers"]:
        argv = [*(container.get("command") or ()), *(container.get("args") or ())]
        if wishes.container not in (None, container["name"]):
            continue
        try:
            candidates.append((container, parse(argv)))
        except UnreadableCommandError as error:
            shown = redacted(" ".join(argv)) or "the image's own"
            complaints.append(f"the command of container {container['name']} is {shown!r}: {error}")
            if wishes.container is not None and wishes.app:
                candidates.append((container, CeleryCommand(options={"pool": "eventlet"})))
    if len(candidates) != 1:
        many = "several containers run celery" if candidates else "; ".join(complaints) or "no such container"
        found.obstacles.append(
            f"{many}: name the worker's with --container, and what its command does not say with --app and --queue"
        )
        return None, CeleryCommand()
    container, command = candidates[0]
    for kind in ("containers", "initContainers"):
        for other in pod.get(kind) or ():
            if other["name"] != container["name"] and other["name"] not in wishes.drop:
                reason, fix = "a pool's pods have only the worker", "run it elsewhere"
                if _program(other) == "beat":
                    reason, fix = f"it runs celery beat, and {_EACH_SENDS}", f"run it in {_BEAT_ALONE}"
                found.obstacles.append(
                    f"{kind} has {other['name']}, and {reason}: {fix}, then say --drop {other['name']}"
                )
    _judge(command, wishes, found)
    return container, command


def _program(container: Object) -> str:
    """What the container runs of Celery's, where that is no worker."""
    try:
        parse([*(container.get("command") or ()), *(container.get("args") or ())])
    except OtherProgramError as error:
        return error.program
    except UnreadableCommandError:
        return ""
    return "worker"


def _beat(deployment: Object) -> str:
    """What to do about a Deployment of beat: it stays, as a single one."""
    spec, metadata = deployment["spec"], deployment["metadata"]
    kubectl = f"kubectl -n {metadata['namespace']}"
    replicas = spec.get("replicas", 1)
    strategy = (spec.get("strategy") or {}).get("type", "RollingUpdate")
    mend = []
    if replicas > 1:
        mend.append(f"replicas is {replicas}: {kubectl} scale deployment/{metadata['name']} --replicas=1")
    if strategy != "Recreate":
        patch = """{"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}"""
        mend.append(f"strategy is {strategy}: {kubectl} patch deployment/{metadata['name']} -p '{patch}'")
    more = "".join(f"; {one}" for one in mend) or ", which it is"
    return (
        f"Deployment {metadata['name']} runs celery beat, which is not a worker and stays beside the pool as "
        f"{_BEAT_ALONE}{more}. Adopt the Deployment of the workers instead"
    )


def _judge(command: CeleryCommand, wishes: Wishes, found: Adoption) -> None:
    """What of the command has no place in a pool."""
    for name, why in (("detach", "a container's process must stay"), ("purge", "it would throw away what waits")):
        if name in command.options:
            found.notes.append(f"--{name} is left out: {why}")
    if "beat" in command.options and "beat" not in wishes.drop:
        found.obstacles.append(
            f"the command has -B (an embedded beat), and {_EACH_SENDS}: run `celery beat` in {_BEAT_ALONE}, then say "
            "--drop beat"
        )
    if "exclude" in command.options and not wishes.queues:
        found.obstacles.append(
            "the command has -X (all queues but some): a pool names its queues, say them with --queue"
        )
    if command.wrapper:
        found.notes.append(
            f"{' '.join(command.wrapper)!r} is left out: the worker is the container's own first process"
        )
    if command.dropped:
        found.notes.append(f"left out, because Greenfleet sets or does not need it: {' '.join(command.dropped)}")


def _environment(
    container: Object, spec: Object, command: CeleryCommand, wishes: Wishes, found: Adoption
) -> list[Object]:
    """The variables that stay; the broker and the result backend go into the spec."""
    variables = container.get("env") or []
    by_name = {variable["name"]: variable for variable in variables}
    spec["broker"] = _reference(wishes.broker_secret) or _broker(variables)
    if spec["broker"] is None and "broker" not in command.options:
        spec["broker"] = _parts_of(_BROKER_NAMES[0], by_name, found)
    if spec["broker"] is None:
        literal = next((one for one in variables if one["name"] in _BROKER_NAMES and one.get("value")), None)
        where = (
            f"env {literal['name']} is {redacted(literal['value'])!r}"
            if literal
            else "no variable takes the broker URL from a Secret"
        )
        if "broker" in command.options:
            where = f"the command has -b {redacted(command.options['broker'])}"
        found.obstacles.append(
            f"{where}, and a pool takes it from a Secret only: kubectl create secret generic broker "
            "--from-literal=url=…, "
            "then say --broker-secret broker/url"
        )
    result = by_name.get(_RESULT_NAME)
    backend = _reference(wishes.result_secret) or (result and _secret_of(result))
    if not backend and "result_backend" not in command.options and _RESULT_NAME not in wishes.drop:
        backend = _parts_of(_RESULT_NAME, by_name, found)
    if backend:
        spec["resultBackend"] = backend
    elif (result or "result_backend" in command.options) and _RESULT_NAME not in wishes.drop:
        found.obstacles.append(
            f"{_RESULT_NAME} (or --result-backend) is written out, and a pool takes it from a Secret only: put it "
            "into one and "
            f"say --result-secret NAME/KEY, or say --drop {_RESULT_NAME} to use the app's own"
        )
    written = _written_url(variables, command) if wishes.broker_secret else None
    kept = []
    for variable in variables:
        name = variable["name"]
        if name in ("CELERY_BROKER_URL", _RESULT_NAME) or name in wishes.drop:
            continue
        if written is not None and variable.get("value") == written:
            # A copy: what is there twice has an anchor in the manifest.
            kept.append({"name": name, "valueFrom": deepcopy(spec["broker"]["urlFrom"])})
            found.notes.append(f"env {name} takes its URL from the Secret of --broker-secret, too")
            continue
        if RESERVED_VARIABLE.fullmatch(name):
            found.obstacles.append(
                f"env {name} is read by Celery as an option or a URL for which a pool has a field: set that in the "
                f"pool, and say --drop {name}"
            )
            continue
        if "resourceFieldRef" in (variable.get("valueFrom") or {}):
            found.obstacles.append(
                f"env {name} is a resourceFieldRef, which a pool has no place for: write the value, or say --drop "
                f"{name}"
            )
            continue
        kept.append(variable)
    directory = command.options.get("workdir") or container.get("workingDir")
    if directory and not any(variable["name"] == "PYTHONPATH" for variable in kept):
        kept.append({"name": "PYTHONPATH", "value": directory})
        found.notes.append(
            f"the working directory {directory} becomes PYTHONPATH: the worker starts in the image's own"
        )
    return kept


def _written_url(variables: list[Object], command: CeleryCommand) -> str | None:
    """The broker's URL where it is written out, for which `--broker-secret` stands; None where it is not."""
    if "broker" in command.options:
        return command.options["broker"]
    if _broker(variables) is not None:
        return None
    written = {variable["name"]: variable.get("value") or "" for variable in variables}
    return next((written[name] for name in _BROKER_NAMES if "://" in written.get(name, "")), None)


def _broker(variables: list[Object]) -> Object | None:
    """The variable that most likely holds the broker URL: Celery's own name first."""
    by_name = {variable["name"]: variable for variable in variables}
    guesses = [name for name in by_name if "BROKER" in name]
    for name in (*_BROKER_NAMES, *guesses):
        if name in by_name and (reference := _secret_of(by_name[name])) is not None:
            return reference
    return None


def _parts_of(name: str, by_name: dict[str, Object], found: Adoption) -> Object | None:
    """The parts of a URL that is written out, but has its password by `$(NAME)` from a Secret, or none."""
    written = _WRITTEN_URL.fullmatch(by_name.get(name, {}).get("value") or "")
    if written is None:
        return None
    parts: Object = {"transport": written["transport"]}
    for part in URL_PARTS[1:]:
        source = _source(written[part], by_name) if written[part] else {}
        if source is None or (part == "password" and "value" in source):
            return None
        if part == "port" and "value" in source:
            source = {"value": int(source["value"])} if source["value"].isdecimal() else {}
        if source:
            parts[part] = source
    if any("secretKeyRef" in source for part, source in parts.items() if part != "transport"):
        found.notes.append(
            f"env {name} is taken apart: what it has as $(NAME) of a Secret is percent-encoded by the worker now, so "
            "that it must not be encoded already"
        )
    return parts


def _source(text: str, by_name: dict[str, Object]) -> Object | None:
    """Where a part of a URL comes from; None: from where a pool cannot take it."""
    if not text.startswith("$("):
        return {"value": unquote(text)}
    named = by_name.get(text[2:-1], {})
    if named.get("value") and "$" not in named["value"]:
        return {"value": named["value"]}
    reference = (named.get("valueFrom") or {}).get("secretKeyRef")
    return reference and {"secretKeyRef": {"name": reference["name"], "key": reference["key"]}}


def _secret_of(variable: Object) -> Object | None:
    reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
    return reference and {"urlFrom": {"secretKeyRef": {"name": reference["name"], "key": reference["key"]}}}


def _reference(text: str | None) -> Object | None:
    name, _, key = (text or "").partition("/")
    return {"urlFrom": {"secretKeyRef": {"name": name, "key": key or "url"}}} if name else None


def _size(deployment: Object, command: CeleryCommand, wishes: Wishes, found: Adoption) -> Object:
    """What ran so far is where the pool starts; from there on it follows the load."""
    replicas = deployment["spec"].get("replicas", 1)
    spec: Object = {"replicas": {"min": min(1, replicas), "max": max(10, replicas)}}
    if replicas:
        found.notes.append(
            "replicas.min is 1: a worker is there before the old ones go; lower it to 0 to scale an idle pool to zero"
        )
    if command.pool == "eventlet":
        concurrency = command.options.get("concurrency", "")
        if concurrency.isdecimal():
            start = max(1, int(concurrency))
            spec["greenThreads"] = {"start": start, "max": max(1000, start)}
            if start < PoolSpec.model_fields["green_threads"].default.min:
                spec["greenThreads"]["min"] = start
            found.notes.append(
                f"-c {concurrency} becomes the start: green threads then follow the load, between greenThreads.min "
                "and max"
            )
    elif not wishes.to_eventlet:
        found.obstacles.append(
            f"the worker runs the {command.pool} pool, and this one runs tasks on green threads: if they mostly "
            "wait for "
            "others (HTTP, databases), say --to-eventlet; tasks that compute go to spec.prefork"
        )
    if "autoscale" in command.options:
        found.notes.append(f"--autoscale={command.options['autoscale']} is left out: greenThreads takes its place")
    return spec


def _limits(pod: Object, command: CeleryCommand, found: Adoption) -> Object:
    grace = pod.get("terminationGracePeriodSeconds", 30)
    # What the pod had for everything is now for the tasks alone; the pool's own default is longer than Kubernetes'.
    spec: Object = {"drain": {"timeout": f"{max(60, grace)}s"}}
    found.notes.append(
        f"running tasks may take {max(60, grace)} s to finish when their worker leaves (drain.timeout; the pods so "
        f"far had {grace} s "
        f"in all, the pool's have {GRACE_MARGIN_SECONDS} s more)"
    )
    options = command.options
    spec["taskTimeLimits"] = {
        name: f"{round(1000 * float(options[name]))}ms" if "." in options[name] else f"{options[name]}s"
        for name in ("soft", "hard")
        if name in options
    }
    spec["recycle"] = {}
    if "max_tasks" in options:
        spec["recycle"]["maxTasks"] = int(options["max_tasks"])
    if "max_memory" in options:
        spec["recycle"]["maxMemory"] = f"{options['max_memory']}Ki"
    return spec


def _worker(
    deployment: Object, container: Object, command: CeleryCommand, *, wishes: Wishes, found: Adoption
) -> Object:
    template, pod = deployment["spec"]["template"], deployment["spec"]["template"]["spec"]
    volumes = []
    for volume in pod.get("volumes") or ():
        if volume["name"] in wishes.drop:
            continue
        kind = next((name for name in volume if name != "name"), "emptyDir")
        if kind not in _VOLUME_KINDS:
            found.obstacles.append(
                f"the volume {volume['name']} is a {kind}, which a pool has no place for: use one of "
                f"{', '.join(_VOLUME_KINDS)}, or say "
                f"--drop {volume['name']}"
            )
        volumes.append(volume)
    for unsupported in ("hostNetwork", "hostPID", "hostIPC", "runtimeClassName", "dnsConfig", "hostAliases"):
        if pod.get(unsupported) and unsupported not in wishes.drop:
            found.obstacles.append(
                f"the pods have {unsupported}, which a pool has no place for: do without and say --drop {unsupported}"
            )
    for name in ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle"):
        if container.get(name):
            found.notes.append(f"{name} is left out: the worker brings its own probes and drain")
    matched = deployment["spec"]["selector"].get("matchLabels") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    # Not the labels that the old Deployment selects by: two owners would count each other's pods.
    kept = {name: value for name, value in labels.items() if name not in matched and name not in _OWN_LABELS}
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    account = pod.get("serviceAccountName")
    worker: Object = {
        "envFrom": container.get("envFrom") or [],
        "resources": container.get("resources") or {},
        "nodeSelector": pod.get("nodeSelector") or {},
        "tolerations": pod.get("tolerations") or [],
        "affinity": pod.get("affinity") or {},
        "topologySpreadConstraints": pod.get("topologySpreadConstraints") or [],
        "volumes": volumes,
        "volumeMounts": [mount for mount in container.get("volumeMounts") or () if mount["name"] not in wishes.drop],
        "serviceAccountName": account if account != "default" else None,
        "priorityClassName": pod.get("priorityClassName"),
        "labels": kept,
        "annotations": {name: value for name, value in annotations.items() if "kubectl.kubernetes.io" not in name},
        "extraArgs": list(command.extra),
        "securityContext": _security(pod, container, found),
    }
    if "prefetch" in command.options:
        worker["prefetchMultiplier"] = max(1, int(command.options["prefetch"]))
    if command.python != "python3":
        worker["python"] = command.python
    return {name: value for name, value in worker.items() if value not in ({}, [], None)}


def _security(pod: Object, container: Object, found: Adoption) -> Object:
    merged = {**(pod.get("securityContext") or {}), **(container.get("securityContext") or {})}
    wanted = {
        name: merged[name]
        for name in ("runAsUser", "runAsGroup", "fsGroup", "readOnlyRootFilesystem")
        if merged.get(name) is not None
    }
    if wanted.get("runAsUser") == 0:
        found.obstacles.append(
            "securityContext.runAsUser is 0, and a pool's workers never run as root: let the image work for "
            "another user, "
            "and set it in the Deployment first"
        )
    elif "runAsUser" not in wanted:
        found.notes.append(
            "the workers run as user 65532 (so far: the image's own user); worker.securityContext.runAsUser: "
            "Image keeps that one"
        )
    return wanted
