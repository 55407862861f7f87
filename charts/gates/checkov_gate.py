"""checkov over everything that the operator's chart renders. A finding is mended, or explained here; nothing is skipped
in silence.

An explanation that no finding needs any more is an error too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charts.gates.parts import GateError, run

Finding = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a finding of this check may stand, on which kinds, and for which value files it may not."""

    check: str
    kinds: tuple[str, ...]
    reason: str
    never_in: tuple[str, ...] = ()

    def covers(self, finding: Finding) -> bool:
        """Whether this explains the finding."""
        name = Path(finding["file_path"]).stem
        return (
            finding["check_id"] == self.check
            and finding["resource"].split(".")[0] in self.kinds
            and name not in self.never_in
        )


EXPLAINED = (
    Explained(
        "CKV_K8S_38",
        ("Deployment", "Pod"),
        "The operator, the test pod and the bundled Prometheus talk to the API server: that is what they are for. "
        "The service account itself does "
        "not mount its token; these pods ask for it.",
    ),
    Explained(
        "CKV_K8S_11",
        ("Deployment", "Pod"),
        "No CPU limit by default: throttled, a leader is late in its loop and may lose its Lease. `resources` sets "
        "one.",
    ),
    Explained(
        "CKV_K8S_43",
        ("Deployment", "Pod"),
        "The default is the tag of the release, which is what a person can read; `image.digest` pins the content.",
        never_in=("production",),
    ),
    Explained(
        "CKV_K8S_15",
        ("Deployment", "Pod"),
        "Neither a release's tag nor a digest changes its content, and the operator must start while the registry "
        "is away. "
        "`image.pullPolicy` says otherwise.",
    ),
    Explained("CKV_K8S_8", ("Pod",), "The pod of `helm test` runs to its end; `helmTest.timeout` bounds it."),
    Explained("CKV_K8S_9", ("Pod",), "The pod of `helm test` serves nothing: there is nothing to be ready for."),
)


def check(python: Path, rendered: Sequence[Path]) -> str:
    """One line of what was checked. Raises GateError naming what is neither right nor explained."""
    files = [argument for path in rendered for argument in ("--file", str(path))]
    options = ("--framework", "kubernetes", "--compact", "--quiet", "--skip-download", "--output", "json")
    said = run([python, "-m", "checkov.main", *files, *options], environment={"LOG_LEVEL": "ERROR"}, check=False)
    try:
        answer = json.loads(said)
        findings, summary = answer["results"]["failed_checks"], answer["summary"]
    except (ValueError, KeyError, TypeError) as error:
        raise GateError(f"checkov gave no report ({type(error).__name__}): {said[-2000:]}") from None
    if summary["parsing_errors"] or summary["skipped"] or not summary["passed"]:
        raise GateError(f"checkov could not read everything, or skipped something: {summary}")
    wrong = unexplained(findings, EXPLAINED)
    if wrong:
        raise GateError("\n".join(wrong))
    return f"{summary['passed']} checks passed, {len(findings)} findings stand with a reason ({len(EXPLAINED)} reasons)"


def unexplained(findings: Iterable[Finding], explained: Sequence[Explained]) -> list[str]:
    """A sentence for each finding without a reason, and for each reason without a finding."""
    found = list(findings)
    wrong = [
        f"{one['check_id']} ({one['check_name']}): {Path(one['file_path']).name}: {one['resource']}: mend it, or "
        "explain it "
        "in charts/gates/checkov_gate.py"
        for one in found
        if not any(reason.covers(one) for reason in explained)
    ]
    stale = [reason for reason in explained if not any(reason.covers(one) for one in found)]
    return wrong + [f"{reason.check} is explained, and nothing needs it any more: remove it" for reason in stale]
