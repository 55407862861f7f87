"""Which pod template a fleet gets, so that an upgraded operator restarts no fleet by itself. Pure.

The agent's image is part of the template, and another version of the operator may also build the rest of it
differently. So a Deployment remembers what its template was made from: the agent in an annotation of the template, and
a digest of the template as we applied it. From those follows what an apply may do:

- The same template comes out with the agent that the fleet has: keep it. Bounds, scaling and the like changed, or
  nothing.
- It does not, and the pool's generation moved: the user changed something that replaces the workers anyway; the fleet
  takes the operator's current agent on the way.
- It does not, and nobody changed the pool: this operator builds templates differently from the last one. That is an
  upgrade, and fleets take it one after another (`Choice.upgrade`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from greenfleet.manifests import names
from greenfleet.manifests.names import AGENT_ANNOTATION
from greenfleet.manifests.worker import with_agent

_Object = dict[str, Any]

GENERATION_ANNOTATION = f"{names.PREFIX}/pool-generation"
"""On a fleet's Deployment: the pool's generation that it was last applied from."""
TEMPLATE_ANNOTATION = f"{names.PREFIX}/template"
"""On a fleet's Deployment: a digest of its pod template as the operator applied it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A Deployment to apply."""

    manifest: _Object
    upgrade: bool = False
    """Replaces workers although nobody changed the pool."""


def choose(live: _Object | None, built: _Object, generation: int) -> Choice:
    """The Deployment for a fleet. `built` has this operator's agent, `live` is what the API server has; neither is
    changed.
    """
    current = _annotated(built, generation)
    if live is None:
        return Choice(current)
    annotations = live["metadata"].get("annotations") or {}
    template = live["spec"]["template"]["metadata"].get("annotations") or {}
    agent = template.get(AGENT_ANNOTATION)
    if agent is not None:
        kept = _annotated(with_agent(built, agent), generation)
        if template_digest(kept) == template_digest(live):
            return Choice(kept)
    unchanged = annotations.get(GENERATION_ANNOTATION) == str(generation)
    return Choice(current, upgrade=unchanged)


def template_digest(deployment: _Object) -> str | None:
    """What a Deployment remembers of the template that it was applied with, None if another hand made it."""
    return (deployment["metadata"].get("annotations") or {}).get(TEMPLATE_ANNOTATION)


def _annotated(manifest: _Object, generation: int) -> _Object:
    written = json.dumps(manifest["spec"]["template"], sort_keys=True).encode()
    annotations = {
        GENERATION_ANNOTATION: str(generation),
        TEMPLATE_ANNOTATION: hashlib.sha256(written).hexdigest()[:16],
    }
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}
