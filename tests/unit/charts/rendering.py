"""What the tests of the charts share: paths, types, and a way to pick objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
CHARTS = REPOSITORY / "charts"

Manifests = list[dict[str, Any]]
Render = Callable[..., Manifests]
RenderText = Callable[..., str]


def of_kind(manifests: Manifests, kind: str) -> Manifests:
    """The objects of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]
