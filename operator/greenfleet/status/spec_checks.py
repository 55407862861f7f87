"""What only the operator can see to be wrong with a spec: references to the administrator's configuration, and
schedules. Pure.

The pool's workers stay as they are, and the loop goes on with what can be used; the condition `Stalled` asks a human.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

from greenfleet import cron
from greenfleet.api import GreenWorkerPool
from greenfleet.api.pool import ScheduleWindow
from greenfleet.manifests.patch import patch_problem
from greenfleet.manifests.pods import PodDefaults, group_without_user
from greenfleet.prometheus import sources
from greenfleet.settings import Prometheus
from greenfleet.status.stalled import StalledReason


def config_error(pool: GreenWorkerPool, settings: Prometheus) -> StalledReason | None:
    """The first thing in the spec that the operator cannot use."""
    found = unknown_server(pool, settings) or unknown_source(pool, settings)
    if found is not None:
        return found
    for index, window in enumerate(pool.spec.scaling.schedules):
        problem = schedule_problem(window)
        if problem is not None:
            return StalledReason("InvalidSchedule", f"scaling.schedules[{index}].{problem}")
    return None


def unknown_server(pool: GreenWorkerPool, settings: Prometheus) -> StalledReason | None:
    """A Prometheus server that the administrator did not name."""
    server = pool.spec.scaling.prometheus.server
    if server is None or server in settings.servers:
        return None
    return StalledReason(
        "UnknownPrometheusServer",
        f"scaling.prometheus.server is {server!r}, which the operator's configuration does not name: "
        "correct it, or ask the administrator to add it",
    )


def unknown_source(pool: GreenWorkerPool, settings: Prometheus) -> StalledReason | None:
    """A source that the administrator did not name, or a query of one's own where those are not allowed."""
    reference = pool.spec.scaling.prometheus
    if reference.query is not None:
        if settings.allow_query:
            return None
        return StalledReason(
            "QueryNotAllowed",
            "scaling.prometheus.query is set, and the administrator did not allow queries of one's own: remove it "
            "and name a "
            "source, or ask for prometheus.allowQuery",
        )
    known = {sources.GREENFLEET, *sources.BUILT_IN, *settings.sources}
    if reference.source in known:
        return None
    return StalledReason(
        "UnknownSource",
        f"scaling.prometheus.source is {reference.source!r}, which the operator's configuration does not name: "
        f"use one of {', '.join(sorted(known))}, or ask the administrator to add it",
    )


def schedule_problem(window: ScheduleWindow) -> str | None:
    """Field, value, reason and fix of a schedule that cannot be evaluated."""
    try:
        cron.parse(window.cron)
    except ValueError as error:
        return f"cron is {window.cron!r}: {error}: write it as in crontab(5), such as '0 8 * * 1-5'"
    try:
        ZoneInfo(window.timezone)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError; a directory's name is an OSError
        return f"timezone is {window.timezone!r}, which is not in the IANA database: use a name such as Europe/Berlin"
    return None


def user_error(pool: GreenWorkerPool, defaults: PodDefaults) -> StalledReason | None:
    """A group without a user, which no container runtime starts. The API server refuses it beside `Image`; a `null`
    is nothing to its rules, and the user may also be the administrator's.
    """
    group = group_without_user(defaults, pool.spec.worker.security_context)
    if group is None:
        return None
    return StalledReason(
        "InvalidSpec",
        f"worker.securityContext.runAsGroup is {group}, and runAsUser, here or as the administrator says for all "
        "pools, is Image, and no container runtime takes a group without a user, so that the pods have the group of "
        "the image: remove runAsGroup, or write the number of the user too",
    )


def patch_error(pool: GreenWorkerPool, *, allowed: bool) -> StalledReason | None:
    """A patch of the pod template where the administrator does not allow it, or one that touches what is Greenfleet's
    own.
    """
    patch = pool.spec.worker.pod_template_patch
    if not patch:
        return None
    if not allowed:
        return StalledReason(
            "PatchNotAllowed",
            "worker.podTemplatePatch is set, and the administrator does not allow it, so that the pods are made "
            "without it: remove it, or ask for "
            "pods.allowPodTemplatePatch",
        )
    problem = patch_problem(patch)
    return None if problem is None else StalledReason("InvalidPatch", f"{problem}; the pods are made without the patch")
