"""One word for one thing: words that this project used before the field's own terms stand nowhere but in the changelog.

Only words that mean nothing else are here. docs/glossary.md explains the terms that took their place.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORDS = {
    # the resource
    "whenBlind": "onMissingMetrics",
    "when_blind": "on_missing_metrics",
    r"(broker|resultBackend)\.secretRef": "urlFrom.secretKeyRef",
    r"spec\.limits": "spec.taskTimeLimits",
    r"spec\.blocking": "spec.hubWatchdog",
    r"blocking\.(warnAfter|restartAfter)": "hubWatchdog",
    r"scaling\.activation\>": "scaling.activationThreshold",
    "mode: (auto|manual|dry-run)": "Auto, Manual, DryRun",
    "agent: (inject|installed)": "Inject, Installed",
    # reasons, metrics, alerts
    "Blind|BlindFloor|[Bb]lindness|blind|blindly": "metrics missing",
    "greenfleet_blind": "greenfleet_metrics_missing",
    "GreenfleetPoolBlind": "GreenfleetPoolMetricsMissing",
    "greenworker_guard": "greenworker_task_risk",
    # the autoscaler
    r"law_spec|law\.py|\<laws|\<law_[a-z_]+|LAWS|--law": "autoscaler",
    "Knowledge": "Observation",
    "KNEE|LONELY|CROWDED": "overcommit, low and high utilisation",
    "LENIENCE": "deadline slack",
    "rung|refuted": "growth ceiling",
    "unborn|unseen_need": "uncreated, deferred replicas",
    "may_rest|rests_until": "can_skip, idle_until",
    r"\<leave_first": "deletion_order",
    # the operator
    "misfits?": "config error",
    "Patrol|sleepers?": "config resync, idle pool",
    "_meet_all_pools|_goes": "wait for the initial list, is deleting",
    r"Told|pods_told|\<carry_out": "last thread write, apply",
    "rivals?": "conflicting pools",
    r"fleet_view|managers\.py|usable\.py": "cluster cache, field managers, spec checks",
    "own_depths?|own_queries|OwnQueries|ForeignSeries": "custom query, namespace mismatch",
    # the worker
    "reap_strangers|own_strays": "recover dead workers, recover lost deliveries",
    "[Dd]oorbell|tear_off": "empty-queue notifier, disconnect",
    "BURY|GIVE_BACK": "remove worker, requeue",
    "in_vain|take_line": "lost race, take pending",
    "Lookout|Hazards": "risk checker, task risks",
    "Sight|PLACES": "stack sample, call sites",
    "ended_late": "late task",
    "[Ff]amiliar|[Hh]ungry|unpatched_|fatal\\.die": "celery_exporter_metrics, has capacity, native, exit_misconfigured",
    "test_worker_(ledger|hazards|familiar|content)|test_evidence_[a-z_]+": "unacked store, task risks, auto-route",
    "bury|buries|buried|GUARD": "dead letter, task risk",
}
IN_CODE = {
    "[Ee]vidence": "findings, auto-routing",
    "[Hh]ears?|heard|_hear|hear_of_[a-z_]+": "receive, arrive, know",
    "nap|naps": "backoff; in tests: sleep",
    "forgive|forgiven|culprit|guilty|innocent": "clear a suspect",
    "is_redis|on_amqp|redis_transport|consumer_transport|runtime\\.store": "kind.BrokerKind, settlement",
}
"""Words that have another meaning elsewhere: in benches, examples and texts for people."""
ELSEWHERE = {
    # Once what a worker holds of a Redis broker: the unacked store. Where tasks are counted: what was sent and done, in
    # files that are journals.
    "[Ll]edgers?|LEDGER": (
        *("bench/scaling", "demo", "charts/demo", "examples", "tests/faults/cluster", "tests/unit/bench"),
        *("tests/unit/demo", "docs/demo.md", "docs/scaling-bench.md", "docs/glossary.md"),
    ),
}
"""Words that have one other meaning, and the only places that may mean it."""
CODE = ("operator/greenfleet", "worker/greenworker", "tests/integration/worker", "tests/unit/worker")
NOT_OURS = (
    *(":!CHANGELOG.md", ":!LICENSE", ":!*.lock", ":!*.sum", ":!tests/unit/test_vocabulary.py"),
    ":!tests/integration/operator/test_bad_input.py",  # where the old names are refused
)


def whole(words: Iterable[str]) -> str:
    """A pattern of these words, also as a part of a longer name: `_familiar` and `familiar_ready` for `familiar`."""
    return f"(^|[^A-Za-z])({'|'.join(words)})($|[^A-Za-z])"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_an_old_word_stands_nowhere() -> None:
    found = git("grep", "-InoE", whole(WORDS), "--", *NOT_OURS).splitlines()
    assert git("grep", "-IlwE", "whenBlind", "--", "CHANGELOG.md"), "what is looked for is found where it stands"
    assert not found, found[:20]


def test_an_old_word_of_the_code_stands_nowhere_in_it() -> None:
    found = git("grep", "-InoE", whole(IN_CODE), "--", *CODE).splitlines()
    assert git("grep", "-IlwE", "[Ee]vidence", "--", "docs"), "what is looked for is found where it stands"
    assert not found, found[:20]


def test_a_word_with_another_meaning_stands_only_where_it_has_that_one() -> None:
    for word, places in ELSEWHERE.items():
        for place in places:
            assert git("grep", "-IlE", whole([word]), "--", place), f"{place} is no exception any more"
        found = git("grep", "-InoE", whole([word]), "--", *NOT_OURS, *(f":!{place}" for place in places)).splitlines()
        assert not found, found[:20]
