"""How often samples come is measured from their own times, and compared with what the configuration claims."""

from __future__ import annotations

import dataclasses

import pytest

from greenfleet.autoscaling.model import MetricsIssue, Problem
from greenfleet.controller.status_builder import compute
from greenfleet.manifests.names import Role
from greenfleet.prometheus.scrape_interval import NewestSamples, ScrapeInterval
from tests.unit.operator.objects import record
from tests.unit.operator.test_status_builder import WELL, conditions, decision


def scraped(
    *, claimed: float, every: float, asked_every: float = 2.0, window: float = 20.0, seconds: float = 400.0
) -> ScrapeInterval:
    """What is measured where two targets are scraped every so often, and the server is asked meanwhile."""
    measured = ScrapeInterval(claimed)
    for tick in range(int(seconds / asked_every)):
        now = tick * asked_every
        newest = NewestSamples()
        for target, offset in (("a", 0.0), ("b", every / 3)):
            times = [
                offset + every * number
                for number in range(int(seconds / every))
                if now - window < offset + every * number <= now
            ]
            if times:
                newest.take({"instance": target}, times[-1], times[-2] if len(times) > 1 else None)
        measured.observe(newest.result())
    return measured


@pytest.mark.parametrize("interval", [1.0, 2.0, 5.0, 15.0, 30.0, 60.0])
def test_a_right_claim_is_no_problem(interval: float) -> None:
    assert scraped(claimed=interval, every=interval, window=4 * interval).problem("default") == ""


@pytest.mark.parametrize(
    ("claimed", "every", "window"), [(2.0, 5.0, 17.0), (2.0, 30.0, 17.0), (2.0, 60.0, 17.0), (15.0, 30.0, 60.0)]
)
def test_samples_that_come_more_seldom_than_claimed_are_said_with_both_intervals(
    claimed: float, every: float, window: float
) -> None:
    text = scraped(claimed=claimed, every=every, window=window).problem("default")
    assert f"every {every:g} s" in text
    assert f"is {claimed:g} s" in text
    assert "prometheus.servers.default.scrapeInterval" in text
    assert f"set it to {every:g}s" in text


def test_a_slow_operator_does_not_make_the_claim_wrong() -> None:
    assert scraped(claimed=2.0, every=2.0, asked_every=11.0, window=17.0).problem("default") == ""


def test_some_missed_scrapes_do_not_make_the_claim_wrong() -> None:
    measured, at = ScrapeInterval(10.0), 0.0
    for number in range(40):
        before, at = at, at + (30.0 if number % 4 == 3 else 10.0)
        measured.observe({"a": (at, before)})
    assert measured.problem("default") == ""


def test_one_late_scrape_of_many_targets_does_not_make_the_claim_wrong() -> None:
    """A busy machine is late with all of them at once, also just after the operator's start."""
    measured = ScrapeInterval(1.0)
    for at in (0.0, 3.0, 6.0):
        measured.observe({f"pod-{number}": (at, at - 3.0) for number in range(16)})
    assert measured.problem("default") == ""


def test_nothing_is_said_of_a_target_that_was_seen_once() -> None:
    measured = ScrapeInterval(2.0)
    for number in range(50):
        measured.observe({f"pod-{number}": (60.0 * number, None)})
    assert measured.measured_seconds() is None
    assert measured.problem("default") == ""


def test_a_claim_that_was_put_right_is_no_problem_after_a_while() -> None:
    measured = scraped(claimed=2.0, every=30.0)
    assert measured.problem("default")
    for number in range(32):
        measured.observe({"a": (1000.0 + 2 * number, 998.0 + 2 * number)})
    assert measured.problem("default") == ""


WRONG_INTERVAL = "Prometheus 'default' has a sample of each target about every 30 s"


@pytest.mark.parametrize("reason", [MetricsIssue.STALE, MetricsIssue.NO_SAMPLE, MetricsIssue.WORKER_MISSING])
def test_samples_that_come_too_seldom_are_said_to_be_so(reason: MetricsIssue) -> None:
    one = record()
    one.fleet(Role.EVENTLET).autoscaling.decision = decision(metrics_issues=(Problem(reason, "the sample is too old"),))
    condition = conditions(compute(one, dataclasses.replace(WELL, scrape_problem=WRONG_INTERVAL)))["MetricsAvailable"]
    assert (condition["status"], condition["reason"]) == ("False", "WrongScrapeInterval")
    assert WRONG_INTERVAL in condition["message"]
    plain = conditions(compute(one, WELL))["MetricsAvailable"]
    assert plain["reason"] == str(reason)


def test_a_wrong_scrape_interval_hides_no_other_problem_and_is_said_while_metrics_are_there() -> None:
    one = record()
    one.fleet(Role.EVENTLET).autoscaling.decision = decision(
        metrics_issues=(Problem(MetricsIssue.BROKER_DOWN, "broker down"),)
    )
    observed = dataclasses.replace(WELL, scrape_problem=WRONG_INTERVAL)
    assert conditions(compute(one, observed))["MetricsAvailable"]["reason"] == "BrokerDown"
    one.fleet(Role.EVENTLET).autoscaling.decision = decision()
    condition = conditions(compute(one, observed))["MetricsAvailable"]
    assert (condition["status"], condition["reason"]) == ("True", "WrongScrapeInterval")
    assert WRONG_INTERVAL in condition["message"]
