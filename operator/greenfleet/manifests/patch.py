"""`worker.podTemplatePatch`: a strategic-merge patch of the worker's pod template, and what it may not touch. Pure.

Lists that Kubernetes merges by a key are merged by it here, all others are replaced. Directives (`$patch`, …) are
refused: with them a patch could take away what Greenfleet needs.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from greenfleet.api.pool import RESERVED_VARIABLE
from greenfleet.manifests import names
from greenfleet.manifests.names import PREFIX

_Path = tuple[str, ...]

_MERGE_KEYS: Mapping[_Path, str] = {
    ("containers",): "name",
    ("initContainers",): "name",
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

_PARTS_OF_A_KEY = {"containerPort": "protocol", "topologyKey": "whenUnsatisfiable"}
"""Merge keys that two entries may share, and what tells these apart."""

_OWN_LABELS = frozenset(f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "managed-by"))
"""Labels that Greenfleet sets, beside those that begin with its own prefix."""
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
        "resizePolicy",
        "terminationMessagePath",
        "terminationMessagePolicy",
    }
)
_POD_FIXED = {
    "terminationGracePeriodSeconds": ("drain.timeout decides the grace", "remove it"),
    "ephemeralContainers": ("a pod template cannot have them", "remove it, and use `kubectl debug`"),
    "restartPolicy": ("a Deployment knows Always only", "remove it"),
    "serviceAccountName": ("rules on worker.serviceAccountName must hold", "use worker.serviceAccountName"),
    "serviceAccount": ("rules on worker.serviceAccountName must hold", "use worker.serviceAccountName"),
}
"""Fields of a pod that a patch may not set: why, and what to do."""
_OWN_PATHS = ("/greenfleet", "/etc/greenfleet", "/dev/termination-log")
_OWN_VOLUME_PREFIX = "greenfleet-"


def patched(template: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The template with the patch, or as it is if `patch_problem` finds something in the patch. Whether the
    administrator allows patches at all, the caller asks.
    """
    if patch_problem(patch) is not None:
        return dict(template)
    found = dict(template)
    found["metadata"] = _merged(template.get("metadata", {}), patch.get("metadata") or {}, ("metadata",))
    found["spec"] = _merged(template["spec"], patch.get("spec") or {}, ())
    return found


def patch_problem(patch: Mapping[str, Any]) -> str | None:
    """A sentence with the field, the reason and the fix for the first thing that a patch may not do; None if all of it
    is allowed. The value is left out: it may be a whole container.
    """
    try:
        path, reason, fix = next(_problems(patch), ("", "", ""))
    except Exception as error:  # whatever somebody writes there, their pool goes on without it
        path, reason, fix = "spec", f"it cannot be merged ({type(error).__name__})", "write it as in a Deployment"
    return f"worker.podTemplatePatch.{path} is set, and {reason}: {fix}" if path else None


def _problems(patch: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Path below the patch, reason and fix. Nobody reads on after the first: each check relies on those before it."""
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
                own = part == "labels" and name in _OWN_LABELS
                if own or name.startswith(f"{PREFIX}/"):
                    yield f"metadata.{part}[{name}]", "it is Greenfleet's own", "remove it, or use a name of your own"


def _spec(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(_POD_FIXED.keys() & spec.keys()):
        yield f"spec.{name}", *_POD_FIXED[name]
    yield from _lists(spec, (), "spec", may_be_null=False)
    taken = {one["name"]: "containers" for one in spec.get("containers", ())}
    taken |= {names.WORKER_CONTAINER: "containers", names.AGENT_CONTAINER: "initContainers"}
    for kind in ("containers", "initContainers"):
        for name in (one["name"] for one in spec.get(kind, ())):
            if (kind, name) == ("initContainers", names.AGENT_CONTAINER):
                yield f"spec.{kind}[{name}]", "it is Greenfleet's agent", "use another name"
            if taken.get(name) not in (None, kind):
                yield f"spec.{kind}[{name}]", "another container of the pod has that name", "use another name"
    for one in spec.get("volumes", ()):
        if one["name"].startswith(_OWN_VOLUME_PREFIX):
            yield (
                f"spec.volumes[{one['name']}]",
                "names that begin with greenfleet- are Greenfleet's own",
                "use another name",
            )
    for kind in ("containers", "initContainers"):
        for one in spec.get(kind, ()):
            yield from _mounted_volumes(one, f"spec.{kind}[{one['name']}]")
    for one in spec.get("containers", ()):
        if one["name"] == names.WORKER_CONTAINER:
            yield from _worker(one)


def _mounted_volumes(container: Mapping[str, Any], where: str) -> Iterator[tuple[str, str, str]]:
    for one in container.get("volumeMounts") or ():
        if str(one.get("name", "")).startswith(_OWN_VOLUME_PREFIX):
            yield (
                f"{where}.volumeMounts[{one['mountPath']}]",
                f"{one['name']} is a volume of Greenfleet's own",
                "mount another volume",
            )


def _lists(node: Mapping[str, Any], path: _Path, where: str, *, may_be_null: bool) -> Iterator[tuple[str, str, str]]:
    """Of lists that are merged: each entry has its key, and no two have the same."""
    for below, key in _MERGE_KEYS.items():
        *above, name = below
        if tuple(above) != path or name not in node or (may_be_null and node[name] is None):
            continue
        entries, kind = node[name], int if key == "containerPort" else str
        if not isinstance(entries, list) or not all(
            isinstance(one, dict) and isinstance(one.get(key), kind) for one in entries
        ):
            yield f"{where}.{name}", f"its entries are told apart by {key}", f"write a list whose entries have a {key}"
        keys = [one[key] for one in entries]
        for twice in (one for number, one in enumerate(keys) if one in keys[:number] and key not in _PARTS_OF_A_KEY):
            yield f"{where}.{name}[{twice}]", f"its {key} is there twice", "keep one, or give the other another"
        for one in entries:
            added = one[key] not in (names.WORKER_CONTAINER, names.AGENT_CONTAINER)
            yield from _lists(one, below, f"{where}.{name}[{one[key]}]", may_be_null=added)


def _worker(container: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    where = f"spec.containers[{names.WORKER_CONTAINER}]"
    for name in sorted(_WORKER_FIXED & container.keys()):
        yield (
            f"{where}.{name}",
            "Greenfleet decides it from the fields of the pool",
            "remove it, and set the field that means it",
        )
    for one in container.get("env", ()):
        if RESERVED_VARIABLE.fullmatch(one["name"]):
            yield (
                f"{where}.env[{one['name']}]",
                "Greenfleet sets it itself, or has a field for it",
                "remove it, and set the field that means it",
            )
    for name, key in (("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")):
        for path in (one[key] for one in container.get(name, ())):
            if _is_own(path):
                yield f"{where}.{name}[{path}]", "Greenfleet has its own files there", "choose another path"


def _is_own(path: str) -> bool:
    """Whether a path in a container, as kubelet and the container's runtime understand it, is below ours."""
    found = posixpath.normpath(f"/{path.lstrip('/')}")
    return any(found == own or found.startswith(f"{own}/") for own in _OWN_PATHS)


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
    """Each entry of *patch* changes the first of *base* that it means, or is one more."""
    more, kept = list(patch), []
    for one in base:
        change = next((each for each in more if _means(each, one, key)), None)
        if change is not None:
            more.remove(change)
        kept.append(one if change is None else _merged(one, change, path))
    return [*kept, *more]


def _means(change: Mapping[str, Any], one: Mapping[str, Any], key: str) -> bool:
    other = _PARTS_OF_A_KEY.get(key)
    return bool(change[key] == one[key] and (other is None or change.get(other, one.get(other)) == one.get(other)))
