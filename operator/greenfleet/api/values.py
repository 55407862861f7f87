"""Strings that stand for amounts: durations and Kubernetes quantities."""

from __future__ import annotations

import re

DURATION_PATTERN = r"^([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h))+$"
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

QUANTITY_PATTERN = r"^([0-9]+(\.[0-9]+)?|\.[0-9]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
"""What the resource takes, and the API server checks. The library below reads more: signs, `NaN`, `1_000`, blanks, any
script's digits.
"""


def duration_seconds(text: str) -> float:
    """Seconds of a duration such as `30s`, `1m30s` or `100ms` (Go's notation, without signs and nanoseconds).

    Raises ValueError with the notation that is expected.
    """
    if not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError(f"{text!r} is not a duration: write a number and a unit (ms, s, m, h), such as 30s or 1m30s")
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def quantity(text: str) -> float:
    """Plain number of a Kubernetes quantity: `250m` is 0.25, `64Mi` is 67108864.

    Raises ValueError for anything that is not a non-negative quantity.
    """
    if not re.fullmatch(QUANTITY_PATTERN, text):
        raise ValueError(f"{text!r} is not a quantity: write a number and an optional suffix, such as 250m, 2, 64Mi")
    # A second, which most commands need not wait for.
    from kubernetes.utils.quantity import parse_quantity  # noqa: PLC0415

    return float(parse_quantity(text))
