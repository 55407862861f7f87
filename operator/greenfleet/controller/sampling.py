"""From Prometheus' answers and the cluster cache to one `Sample` for each role of a pool. Asks nobody and writes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from greenfleet.api import GreenWorkerPool
from greenfleet.autoscaling.model import MetricsIssue, Problem, QueueSample, Sample
from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.controller.pods import is_finished, scaling_pod
from greenfleet.manifests import names
from greenfleet.manifests.names import Role
from greenfleet.manifests.worker import consumed_queues
from greenfleet.prometheus.collect import Depths, Worker
from greenfleet.prometheus.poller import WORKERS, Answers, scopes_of, source_of
from greenfleet.prometheus.series import QueryError
from greenfleet.settings import Prometheus
from greenfleet.status import broker_error
from greenfleet.status.spec_checks import unknown_source

_SEVERAL_VHOSTS = (
    "Several virtual hosts of the broker have this queue, and the source does not say which is meant: ask the "
    "administrator "
    'for one whose selector does, such as rabbitmq_queue_messages_ready{vhost="production"}.'
)


@dataclass(frozen=True, slots=True)
class FleetSample:
    """What is known of one role of a pool in one round."""

    sample: Sample
    workers: tuple[Worker, ...]
    """What else its workers said."""


def fleet_sample(
    pool: GreenWorkerPool, role: Role, answers: Answers, view: ClusterCache, settings: Prometheus
) -> FleetSample | None:
    """The sample of one role; None while it has no Deployment."""
    deployment = view.deployment(pool.namespace, names.fleet_name(pool.name, role))
    if deployment is None:
        return None
    workers, problems = workers_of(pool, role, answers)
    queues, more = depths_of(pool, role, answers, settings)
    sample = Sample(
        queues=queues,
        workers=tuple(worker.sample for worker in workers),
        pods=tuple(scaling_pod(pod) for pod in view.pods(pool.namespace, pool.name, role) if not is_finished(pod)),
        replicas=deployment["spec"].get("replicas", 0),
        expected_queues=consumed_queues(pool, role),
        problems=(*more, *problems),
    )
    return FleetSample(sample, workers)


def depths_of(
    pool: GreenWorkerPool, role: Role, answers: Answers, settings: Prometheus
) -> tuple[tuple[QueueSample, ...], tuple[Problem, ...]]:
    """The depths of the queues of a role, or why they are not known."""
    answer = answers.depths[source_of(pool)]
    if answer is None:
        unknown = unknown_source(pool, settings)
        return (), (
            Problem(MetricsIssue.NO_SAMPLE, f"{unknown.message}." if unknown else "The source has just changed."),
        )
    if isinstance(answer, QueryError):
        return (), (Problem(answer.reason, answer.message),)
    if pool.namespace in answers.crowded.get(source_of(pool), ()):
        return (), (_crowded_problem(pool.namespace, "about queues"),)
    return _believed(pool, consumed_queues(pool, role), answer)


def workers_of(pool: GreenWorkerPool, role: Role, answers: Answers) -> tuple[tuple[Worker, ...], tuple[Problem, ...]]:
    """The workers of a role, or why they are not known."""
    if isinstance(answers.workers, QueryError):
        return (), (Problem(answers.workers.reason, answers.workers.message),)
    if pool.namespace in answers.crowded.get(WORKERS, ()):
        return (), (_crowded_problem(pool.namespace, "about workers"),)
    return answers.workers.by_fleet.get((pool.key, role), ()), ()


def _believed(
    pool: GreenWorkerPool, expected: tuple[str, ...], answer: Depths
) -> tuple[tuple[QueueSample, ...], tuple[Problem, ...]]:
    scopes = scopes_of(pool)
    if not answer.down.isdisjoint(scopes):
        return (), (
            Problem(MetricsIssue.BROKER_DOWN, broker_error.message(pool, answer.errors.get(pool.broker_key, ""))),
        )
    if pool.spec.scaling.prometheus.query:
        own = tuple(depth.sample for depth in answer.of(scopes, ""))
        samples = tuple(QueueSample(expected[0], one.at, one.ready) for one in own)
        # One query speaks for all queues of the pool: the others are counted in it.
        return samples + tuple(QueueSample(queue, one.at, 0.0) for queue in expected[1:] for one in samples), ()
    found = [depth for queue in expected for depth in answer.of(scopes, queue)]
    if not found and (text := _why_not_believed(pool, expected, answer)):
        return (), (Problem(MetricsIssue.NO_SAMPLE, text),)
    if len({depth.labels.get("vhost") for depth in found}) > 1:
        return (), (Problem(MetricsIssue.CONTRADICTION, _SEVERAL_VHOSTS),)
    return tuple(depth.sample for depth in found), ()


def _why_not_believed(pool: GreenWorkerPool, expected: Iterable[str], answer: Depths) -> str:
    """Why samples of a pool's queues may not be believed although there are some; "" if there are none."""
    if pool.namespace in answer.namespace_mismatch:
        return (
            "Samples arrive without the target label `namespace`, or with one that does not match, and are not "
            "believed: "
            "see the scrape configuration in the documentation."
        )
    source = pool.spec.scaling.prometheus.source
    if not answer.unnamed.isdisjoint(expected):
        return (
            f"Samples come from targets of other namespaces, which the administrator has not named: ask for theirs in "
            f"prometheus.sources.{source}.namespaces."
        )
    return ""


def _crowded_problem(namespace: str, about: str) -> Problem:
    return Problem(
        MetricsIssue.TOO_MANY_SERIES,
        f"The pods of namespace {namespace} export so many series {about}, or such long ones, that the answer for "
        "everybody was too "
        "large, so that this namespace is left out of it for some minutes: find the pods that export them.",
    )
