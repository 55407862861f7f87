"""`GreenWorkerPool.status` as typed models. The operator writes it on change only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from greenfleet.api.base import Model, keyed

MAX_INTEGER = 2**53
"""Bounds in a schema are floating-point numbers: the API server refuses one that is beyond what they count exactly."""
MAX_COUNT = 100_000_000
"""More workers or green threads than that there are not."""

CONDITION_TYPES = (
    "Ready",
    "Reconciling",
    "Stalled",
    "MetricsAvailable",
    "ScalingActive",
    "ScalingLimited",
    "HubBlocked",
    "TasksAtRisk",
    "DeadLetters",
)


class Condition(Model):
    """One condition, as metav1.Condition defines it."""

    type: str = Field(max_length=316, description="Name of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: int | None = Field(
        default=None, ge=0, le=MAX_INTEGER, description="metadata.generation that it was computed from."
    )
    last_transition_time: str = Field(
        description="When status last changed.", max_length=64, json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="Why, as one word for programs.",
    )
    message: str = Field(max_length=32768, description="Why, as a sentence for people.")


class LastScale(Model):
    """The last change of the number of workers or green threads."""

    time: str = Field(description="When.", max_length=64, json_schema_extra={"format": "date-time"})
    reason: str = Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Z][A-Za-z0-9]*$",
        description="Why, as one word for programs, such as ArrivalRate or Deadline.",
    )
    message: str = Field(max_length=1024, description="Why, as a sentence for people.")


class LearnedStatus(Model):
    """What the operator learned about the tasks of this pool; survives restarts and scale-to-zero."""

    runtime: str | None = Field(default=None, max_length=32, description="Mean run time of a task, such as 310ms.")
    cpu_per_task: str | None = Field(default=None, max_length=32, description="CPU time per task, such as 3.1ms.")
    safe_threads: int | None = Field(
        default=None, ge=0, le=MAX_COUNT, description="Green threads that one worker bears."
    )
    startup: str | None = Field(
        default=None, max_length=32, description="From a pod's creation to Ready, such as 6.2s."
    )


class PoolStatus(Model):
    """What is."""

    observed_generation: int | None = Field(
        default=None, ge=0, le=MAX_INTEGER, description="metadata.generation that the operator last acted on."
    )
    conditions: list[Condition] = Field(
        default=[],
        max_length=32,
        description="Ready, Reconciling, Stalled (kstatus), MetricsAvailable, ScalingActive, ScalingLimited, "
        "HubBlocked, TasksAtRisk, DeadLetters.",
        json_schema_extra=keyed("type"),
    )
    replicas: int | None = Field(default=None, ge=0, le=MAX_COUNT, description="Eventlet workers that exist.")
    ready_replicas: int | None = Field(default=None, ge=0, le=MAX_COUNT, description="Eventlet workers that are ready.")
    selector: str | None = Field(
        default=None, max_length=1024, description="Label selector of the Eventlet workers, for kubectl scale and HPAs."
    )
    desired_replicas: int | None = Field(
        default=None,
        ge=0,
        le=MAX_COUNT,
        description="Eventlet workers that the load asks for. With DryRun: what would be.",
    )
    backlog: int | None = Field(
        default=None,
        ge=0,
        le=MAX_INTEGER,
        description="Messages that wait in the queues and have not started, rounded to 1, 2 or 5 times a power of "
        "ten and refreshed at most once a minute; that there is none, or that there are some again, within some 10 s. "
        "Absent while it is not known.",
    )
    oldest_message_age: str | None = Field(
        default=None,
        max_length=32,
        description="How long the oldest of them has waited, such as 50s, rounded and refreshed as backlog. Absent "
        "while it is not known.",
    )
    green_threads: int | None = Field(
        default=None, ge=0, le=MAX_COUNT, description="Green threads wanted per worker now."
    )
    last_scale: LastScale | None = Field(default=None, description="The last change of workers or green threads.")
    learned: LearnedStatus | None = Field(default=None, description="What the operator learned about the tasks.")
    blocking_tasks: list[Annotated[str, Field(max_length=300)]] = Field(
        default=[],
        max_length=100,
        description="Tasks that were seen blocking the hub, and that auto-routing moved to prefork.",
    )
