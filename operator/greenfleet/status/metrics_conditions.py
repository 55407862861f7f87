"""The condition that says whether the load is known: `MetricsAvailable`. Pure."""

from __future__ import annotations

from greenfleet.autoscaling.model import Decision, MetricsIssue
from greenfleet.status import broker_error, missing_queues
from greenfleet.status.diagnosis import GRACE_SECONDS
from greenfleet.status.findings import Findings
from greenfleet.status.worker_conditions import Said

_SCRAPE_REASONS = frozenset({MetricsIssue.NO_SAMPLE, MetricsIssue.STALE, MetricsIssue.WORKER_MISSING})
"""What samples that come too seldom look like."""
_FIRST_SAMPLE_REASONS = frozenset({MetricsIssue.NO_SAMPLE, MetricsIssue.BROKER_DOWN})


def metrics_available(
    decision: Decision | None, findings: Findings, *, age_seconds: float, scrape_problem: str, missing: str
) -> Said:
    """Whether the load is known. *age_seconds*: of the pool. *scrape_problem* and *missing*: what is to be
    said of the scrape interval and of missing queues, "" for nothing.
    """
    if decision is None:
        return "Unknown", "NotYetSampled", "The scaling loop has not looked at this pool yet."
    first = decision.metrics_issues[0] if decision.metrics_issues else None
    human = broker_error.needs_human_at_once(findings.broker_error)
    if first is not None and first.reason in _FIRST_SAMPLE_REASONS and age_seconds < GRACE_SECONDS and not human:
        down = first.reason is MetricsIssue.BROKER_DOWN
        text = first.message if down else "its exporter starts, and Prometheus finds it."
        return "Unknown", "FirstSamplePending", f"The pool is new: {text}"
    if decision.metrics_issues:
        reason = decision.metrics_issues[0].reason
        text = "; ".join(dict.fromkeys(problem.message for problem in decision.metrics_issues[:3]))
        if scrape_problem and reason in _SCRAPE_REASONS:
            return "False", "WrongScrapeInterval", scrape_problem
        return "False", str(reason), text
    return _complete(findings, scrape_problem, missing)


def _complete(findings: Findings, scrape_problem: str, missing: str) -> Said:
    """Nothing is missing now; whatever else is to be said of the metrics."""
    if scrape_problem:
        return (
            "True",
            "WrongScrapeInterval",
            f"Every sample is fresh now, and may not be soon. {scrape_problem}",
        )
    if findings.speaks_for_others:
        return "True", "NamespaceMismatch", _NAMESPACE_MISMATCH
    if missing:
        return "True", missing_queues.REASON, f"Every sample is fresh. But {missing}"
    return "True", "Complete", "Every sample is fresh."


_NAMESPACE_MISMATCH = (
    "Every sample is fresh. But pods of this namespace export series about pools or brokers of other namespaces, which "
    "nobody believes: find the pods that export them, or correct the target label `namespace` in the scrape "
    "configuration."
)
