"""What tools make of a pool's status: kstatus' rules, and the Lua check of docs/gitops.md in a Lua interpreter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lupa import LuaRuntime

Object = dict[str, Any]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "gitops.md"


def kstatus(obj: Object) -> str:
    """kstatus' generic rules (sigs.k8s.io/cli-utils, pkg/kstatus/status/generic.go), which Flux and `kubectl wait`
    follow.
    """
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = obj.get("status") or {}
    if "observedGeneration" in status and status["observedGeneration"] != obj["metadata"]["generation"]:
        return "InProgress"
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", ())}
    if conditions.get("Reconciling") == "True":
        return "InProgress"
    if conditions.get("Stalled") == "True":
        return "Failed"
    if conditions.get("Ready", "True") != "True":
        return "InProgress"
    return "Current"


def argo_health(obj: Object) -> tuple[str, str]:
    """Health and message, as Argo CD gets them from the script in the documentation."""
    found = re.search(r"```lua\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    lua = LuaRuntime()
    health = lua.execute(f"return function(obj)\n{found[1]}end")(lua.table_from(obj, recursive=True))
    return str(health["status"]), str(health["message"])
