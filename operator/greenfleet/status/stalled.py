"""Why a human has to act. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StalledReason:
    """Why a pool cannot make progress without a human: reason for programs, field–value–reason–fix for people."""

    reason: str
    message: str
