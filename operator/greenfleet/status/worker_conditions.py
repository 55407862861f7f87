"""The conditions that say what workers and exporters report: `HubBlocked`, `TasksAtRisk` and `DeadLetters`. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from greenfleet.status.findings import Findings

Said = tuple[str, str, str]
"""Status, reason and message of a condition."""

BLOCKED_MEMORY_SECONDS = 300.0
"""How long `HubBlocked` stays true after a task blocked the hub."""

RISK_MEMORY_SECONDS = 60.0
"""How long `TasksAtRisk` outlives the last sample that said so; workers themselves remember for ten minutes."""

_LACKS_CPU = (
    "A worker's hub wanted to run and had no CPU for most of five minutes: raise worker.resources.limits.cpu, or "
    "add nodes; "
    "no task is to blame."
)


def hub_blocked(findings: Findings, now: float) -> Said:
    """Whether a task halts the others, or the worker has no CPU. *now* is Unix time."""
    tasks = sorted(task for task, at in findings.blocked.items() if now - at < BLOCKED_MEMORY_SECONDS)
    starved = now - findings.risks.get(("cpu", ""), float("-inf")) < RISK_MEMORY_SECONDS
    if tasks:
        listed = ", ".join(tasks[:5])
        blocks = (
            f"Blocking calls halt all green threads of a worker: {listed}. The worker's log has the place; "
            "consider prefork.tasks."
        )
        return "True", "TaskBlocks", f"{blocks} {_LACKS_CPU}" if starved else blocks
    if starved:
        return "True", "LacksCpu", _LACKS_CPU
    return "False", "HubRuns", "No task blocked the hub lately, and it had a CPU."


_RISKS: Mapping[str, tuple[str, str]] = {
    "acks": (
        "AcksFail",
        "The broker did not take acknowledgements, and such tasks run twice: look at the broker and the network.",
    ),
    "consumer_timeout": (
        "ConsumerTimeout",
        "Tasks or ETAs exceed RabbitMQ's consumer_timeout, after which everything that their worker holds runs "
        "again: raise "
        "it on the broker and in broker.consumerTimeout, or split the tasks.",
    ),
    "delivery_limit": (
        "DeliveryLimit",
        "Messages have used up half of their quorum queue's delivery limit, after which RabbitMQ drops or "
        "dead-letters them: look for "
        "workers that die and connections that break, or raise x-delivery-limit.",
    ),
    "no_progress": (
        "NothingEnds",
        "Every thread of a worker is busy, and no task has ended for five minutes: look for calls without a "
        "time-out and for "
        "libraries that were imported before patching, or set taskTimeLimits.hard. The worker's log names the tasks.",
    ),
    "prefork": (
        "PreforkImpossible",
        "Tasks that belong to the prefork companion run on the hub, because there is none or its queue cannot be "
        "had: the workers' log says why.",
    ),
    "prefetch": (
        "PrefetchHoards",
        "Workers hold messages that no other worker can take: lower worker.prefetchMultiplier, or the app's own "
        "prefetch setting.",
    ),
    "results": (
        "ResultsNotStored",
        "Results of tasks cannot be stored, and their callers wait: spec.resultBackend, or what the app itself sets "
        "where the pool has none, does not answer or refuses: correct it, or give the app in worker.env what it reads "
        "from its environment. The workers' log has the address and the error.",
    ),
    "visibility_timeout": (
        "VisibilityTimeout",
        "Tasks or ETAs exceed Redis' visibility_timeout, and run twice wherever a worker does not renew it: raise "
        "it in "
        "broker_transport_options of every worker of this broker.",
    ),
}
"""What a worker says in `greenworker_task_risk{reason}`: reason of the condition, and what to do."""


def tasks_at_risk(risks: Mapping[tuple[str, str], float], now: float) -> Said:
    """The first reason in a stable order is the condition's; the message has them all, so that there is one Event."""
    held = sorted(key for key, at in risks.items() if now - at < RISK_MEMORY_SECONDS and key[0] in _RISKS)
    if not held:
        return "False", "NothingFound", "No worker reports anything that could lose or double a task."
    sentences = []
    for reason in dict.fromkeys(reason for reason, _ in held):
        tasks = [task for found, task in held if found == reason and task]
        sentences.append(_RISKS[reason][1] + (f" Tasks: {', '.join(tasks[:5])}." if tasks else ""))
    return "True", _RISKS[held[0][0]][0], " ".join(sentences)


def dead_letters(findings: Findings, namespace: str, pool: str) -> Said:
    """How many, of which tasks, and the command."""
    if not findings.dead_letters:
        return "False", "NoDeadLetters", "No message was taken out of the queues."
    counts = ", ".join(f"{count} of queue {queue}" for queue, count in sorted(findings.dead_letters.items()))
    tasks = f" Tasks: {', '.join(sorted(findings.dead_tasks)[:5])}." if findings.dead_tasks else ""
    return (
        "True",
        "TaskDeadLettered",
        f"Messages that no worker can run were taken out of the queues: {counts}.{tasks} "
        f"`kubectl greenfleet dead-letters {pool} -n {namespace}` lists them with the "
        "reason: repair the task (or "
        "raise the memory limit) and requeue them, or drop them.",
    )
