"""`worker.podTemplatePatch`: a strategic-merge patch of the worker's pod template, and what it may not touch. Pure.

Lists that Kubernetes merges by a key are merged by it here, all others are replaced. Directives (`$patch`, …) are
refused: with them a patch could take away what Greenfleet needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from greenfleet.manifests import names
from greenfleet.manifests.names import PREFIX

_Path = tuple[str, ...]

_MERGE_KEYS: Mapping[_Path, str] = {
    ("containers",): "name",
    ("initContainers",): "name",
    ("ephemeralContainers",): "name",
    ("volumes",): "name",
    ("imagePullSecrets",): "name",
    ("hostAliases",): "ip",
    ("topologySpreadConstraints",): "topologyKey",
    ("containers", "env"): "name",
    ("containers", "ports"): "containerPort",
    ("containers", "volumeMounts"): "mountPath",
    ("containers", "volumeDevices"): "devicePath",
    ("initContainers", "env"): "name",
    ("initContainers", "ports"): "containerPort",
    ("initContainers", "volumeMounts"): "mountPath",
    ("initContainers", "volumeDevices"): "devicePath",
}
"""The merge keys of Kubernetes' pod template (k8s.io/api/core/v1), by the path below `spec`."""

_OWN_LABELS = ("name", "instance", "component", "managed-by")
_WORKER_FIXED = frozenset(
    {
        "command",
        "args",
        "image",
        "imagePullPolicy",
        "resources",
        "ports",
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
    }
)
_POD_FIXED = {
    "terminationGracePeriodSeconds": ("drain.timeout decides the grace", "remove it"),
    "restartPolicy": ("a Deployment knows Always only", "remove it"),
    "serviceAccountName": ("rules on worker.serviceAccountName must hold", "use worker.serviceAccountName"),
    "serviceAccount": ("rules on worker.serviceAccountName must hold", "use worker.serviceAccountName"),
}
"""Fields of a pod that a patch may not set: why, and what to do."""
_OWN_MOUNTS = ("/greenfleet", "/etc/greenfleet")


def patched(template: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The template with the patch, or as it is if the patch is not allowed."""
    if patch_problem(patch) is not None:
        return dict(template)
    found = dict(template)
    found["metadata"] = _merged(template.get("metadata", {}), patch.get("metadata") or {}, ("metadata",))
    found["spec"] = _merged(template["spec"], patch.get("spec") or {}, ())
    return found


def patch_problem(patch: Mapping[str, Any]) -> str | None:
    """Field, value, reason and fix of the first thing that a patch may not do."""
    for path, reason, fix in _problems(patch):
        return f"worker.podTemplatePatch.{path} is set, and {reason}: {fix}"
    return None


def _problems(patch: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield from _directives(patch, "")
    for name in patch:
        if name not in ("metadata", "spec"):
            yield name, "a pod template has metadata and spec only", "move it below one of them"
    for part in ("metadata", "spec"):
        if not isinstance(patch.get(part, {}), dict):
            yield part, "it has to be an object", "write the fields to change below it"
            return
    yield from _metadata(patch.get("metadata", {}))
    yield from _spec(patch.get("spec", {}))


def _directives(node: Any, path: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(node, dict):
        for name, child in node.items():
            if str(name).startswith("$"):
                yield f"{path}{name}", "directives could take away what Greenfleet needs", "remove it"
            yield from _directives(child, f"{path}{name}.")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _directives(child, f"{path}{index}.")


def _metadata(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for part, chosen in metadata.items():
        if part not in ("labels", "annotations"):
            yield f"metadata.{part}", "pods of a Deployment take only labels and annotations", "remove it"
        elif not isinstance(chosen, dict):
            yield f"metadata.{part}", "it would take away Greenfleet's own", "name the ones to add"
        else:
            for name in chosen:
                own = part == "labels" and name in {f"app.kubernetes.io/{one}" for one in _OWN_LABELS}
                if own or name.startswith(f"{PREFIX}/"):
                    yield f"metadata.{part}[{name}]", "it is Greenfleet's own", "remove it, or use a name of your own"


def _spec(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(_POD_FIXED.keys() & spec.keys()):
        yield f"spec.{name}", *_POD_FIXED[name]
    for (name, *rest), key in _MERGE_KEYS.items():
        if rest or name not in spec:
            continue
        items = spec[name]
        if not isinstance(items, list) or not all(isinstance(one, dict) and key in one for one in items):
            yield f"spec.{name}", f"its entries are told apart by {key}", f"write a list whose entries have a {key}"
            return
    for one in spec.get("initContainers", ()):
        if one["name"] == names.AGENT_CONTAINER:
            yield f"spec.initContainers[{one['name']}]", "it is Greenfleet's agent", "use another name"
    for one in spec.get("volumes", ()):
        if one["name"].startswith("greenfleet-"):
            yield (
                f"spec.volumes[{one['name']}]",
                "names that begin with greenfleet- are Greenfleet's own",
                "use another name",
            )
    for one in spec.get("containers", ()):
        if one["name"] == names.WORKER_CONTAINER:
            yield from _worker(one)


def _worker(container: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    where = f"spec.containers[{names.WORKER_CONTAINER}]"
    for name in sorted(_WORKER_FIXED & container.keys()):
        yield (
            f"{where}.{name}",
            "Greenfleet decides it from the fields of the pool",
            "remove it, and set the field that means it",
        )
    for name in ("env", "volumeMounts"):
        if not isinstance(container.get(name, []), list):
            yield f"{where}.{name}", "it would take away Greenfleet's own", "write a list of what to add"
            return
    for one in container.get("env", ()):
        if str(one.get("name", "")).startswith(("GREENWORKER_", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")):
            yield f"{where}.env[{one['name']}]", "the worker gets it from Greenfleet", "remove it"
    for one in container.get("volumeMounts", ()):
        path = str(one.get("mountPath", "")).rstrip("/")
        if any(path == own or path.startswith(f"{own}/") for own in _OWN_MOUNTS):
            yield f"{where}.volumeMounts[{path}]", "Greenfleet mounts its own files there", "choose another path"


def _merged(base: Any, patch: Any, path: _Path) -> Any:
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
            continue
        below = (*path, name)
        key = _MERGE_KEYS.get(below)
        if key is not None and isinstance(value, list):
            result[name] = _merged_list(base.get(name) or [], value, key, below)
        else:
            result[name] = _merged(base.get(name), value, below)
    return result


def _merged_list(base: list[Any], patch: list[Any], key: str, path: _Path) -> list[Any]:
    changes = {one[key]: one for one in patch}
    known = {one[key] for one in base}
    kept = [_merged(one, changes[one[key]], path) if one[key] in changes else one for one in base]
    return [*kept, *(one for one in patch if one[key] not in known)]
