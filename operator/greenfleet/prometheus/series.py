"""What an answer of Prometheus is made of, and the error that stands in the place of one. Pure: what an answer means
(`collect`) and what is made of it need no client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from greenfleet.autoscaling.model import MetricsIssue


class Series(NamedTuple):
    """One series with its newest sample. A tuple, for thousands come in every tick."""

    labels: dict[str, str]
    value: float
    at: float
    """Unix time of the sample: of the scrape if the query selected a range, else of the evaluation."""


class QueryError(Exception):
    """A query gave no usable answer. `message` has no number that moves, for it lands in a condition."""

    def __init__(self, reason: MetricsIssue, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class AnswerTooLargeError(QueryError):
    """More than `client.MAX_ANSWER_BYTES`, or a series longer than `client.MAX_SERIES_BYTES`. `namespace` is the one
    that most of it was about, or whose series is too long; "" if that is not known. `sizes`: characters by namespace,
    where it is the sum that is too large.
    """

    def __init__(self, message: str, namespace: str, sizes: Mapping[str, int]) -> None:
        super().__init__(MetricsIssue.BAD_ANSWER, message)
        self.namespace = namespace
        self.sizes = sizes


class LateAnswerError(QueryError):
    """No whole answer in time. `sizes`: characters by namespace of what had come by then."""

    def __init__(self, message: str, sizes: Mapping[str, int]) -> None:
        super().__init__(MetricsIssue.UNREACHABLE, message)
        self.sizes = sizes
