"""A made-up run in the shape of a real one, for tests of what is drawn and counted."""

from __future__ import annotations

from demo.timeline import Mark, Reason, Snapshot, Timeline, Worker

START = 1_700_000_000.0
QUIET, RAMP = 15, 20
BURST_AT = START + QUIET + RAMP
BURST = 20_000
_ALL_PUBLISHED = 55
_WORKERS = (("a", 1, 8), ("b", 37, 44), ("c", 37, 45))
"""Name, second of creation, second of Ready."""


def snapshot(second: int, **changes: object) -> Snapshot:
    """One moment with nothing going on, but for the changes."""
    values: dict[str, object] = {
        "at": START + second,
        "phase": "",
        "sent": 0,
        "executions": 0,
        "waiting": 0,
        "unacked": 0,
        "oldest_seconds": 0.0,
        "desired": 0,
        "workers": (),
        "prometheus": True,
        "metrics_available": True,
        "why": "",
    }
    return Snapshot(**{**values, **changes})  # type: ignore[arg-type]


def worker(name: str = "a", *, ready: bool = True, limit: int | None = 20, busy: int | None = 0) -> Worker:
    """One worker."""
    return Worker(name=name, ready=ready, leaving=False, asked=limit, limit=limit, busy=busy)


def feed_hub() -> Timeline:
    """Quiet, ramp, a burst of 20,000, drained by three workers, back to zero."""
    timeline = Timeline()
    executions, sent = 0.0, 0
    for second in range(190):
        phase = "quiet" if second < QUIET else "ramp" if second < QUIET + RAMP else "burst"
        rate = 3.0 if second < QUIET else 3 + 1.85 * (second - QUIET) if phase == "ramp" else 3.0
        sent += int(rate) if second < _ALL_PUBLISHED else 0
        sent += BURST if second == QUIET + RAMP else 0
        leaving = executions >= sent and second > _ALL_PUBLISHED
        idle = second >= 185
        threads = 20 if second < QUIET + RAMP + 3 else 160
        workers = tuple(
            worker(name, ready=second >= ready, limit=threads if second >= ready else None)
            for name, created, ready in _WORKERS
            if second >= created and not idle and not (leaving and second > 178)
        )
        capacity = sum(60.0 * entry.ready for entry in workers)
        executions = min(float(sent), executions + capacity)
        waiting = max(0, sent - int(executions) - sum(entry.threads for entry in workers))
        busy = min(threads, sent - int(executions))
        timeline.add(
            snapshot(
                second,
                phase=phase,
                sent=sent,
                executions=int(executions),
                waiting=waiting,
                oldest_seconds=waiting / max(1.0, capacity) if waiting else 0.0,
                desired=0 if idle else sum(1 for _, created, _ in _WORKERS if second >= created - 1),
                workers=tuple(
                    worker(w.name, ready=w.ready, limit=w.limit, busy=busy if w.ready else None) for w in workers
                ),
                finished=second >= _ALL_PUBLISHED,
                phase_started_at=START + {"quiet": 0, "ramp": QUIET, "burst": QUIET + RAMP}[phase],
            )
        )
    for second, name in ((0, "quiet"), (QUIET, "ramp"), (QUIET + RAMP, "burst")):
        timeline.add(Mark(START + second, name, name))
    for second, text in (
        (1, "0 to 1 worker: 3 messages wait and nobody runs"),
        (17, "green threads 20 to 45: 21 feeds a second of 0.28 s each need 6 at 80 % load, and something waits"),
        (38, "green threads 45 to 160 per worker: 20,012 messages wait; 160 is what one core of 0.3 bears"),
        (37, "1 to 3 workers: 20,012 messages must start within 108 s; one worker starts 6,480 of them"),
        (160, "3 to 1 worker: nothing has been waiting for 10 s"),
        (184, "1 to 0 workers: nothing waits or runs since 20 s"),
    ):
        timeline.add(Reason(START + second, "lastScale", text))
    return timeline
