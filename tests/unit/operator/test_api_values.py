"""Durations and quantities: exactly what Kubernetes and Go write, and nothing else."""

from __future__ import annotations

import pytest

from greenfleet.api import duration_seconds, quantity


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1m30s", 90), ("100ms", 0.1), ("2h", 7200), ("1.5s", 1.5), ("0s", 0), ("1h1m1s1ms", 3661.001)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert duration_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-5s", "5 s", "1d", "1us", "٣s", "5s\n", "1e3s", "NaN", "1.2345s", "9999999s", "5s;", "+1s"]
)
def test_what_is_no_duration_is_refused_with_the_notation_that_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="such as 30s"):
        duration_seconds(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("250m", 0.25),
        ("2", 2),
        ("64Mi", 64 * 2**20),
        ("1.5G", 1.5e9),
        (".5", 0.5),
        ("1k", 1000),
        ("0", 0),
        ("2Ei", 2 * 2**60),
    ],
)
def test_a_quantity_is_read_as_a_plain_number(text: str, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "-1", "1 Gi", "1gi", "1KB", "Mi", "1e3", "inf", "0x10", "1Mi\n", "１"])
def test_what_is_no_quantity_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 250m, 2, 64Mi"):
        quantity(text)
