"""Things that go wrong on purpose, in the middle of the burst. Each must change no result.

Usable by themselves: the chaos tier imports `kill_leader`, `without_prometheus` and `scale_ins_without_metrics`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from demo import timeline as seen
from demo.api import Api, ApiError
from demo.observer import OPERATOR_NAMESPACE, PROMETHEUS, leader
from demo.stage import until
from demo.timeline import Mark, Timeline

LEADER_KILLED, PROMETHEUS_GONE, PROMETHEUS_BACK = "leader killed", "Prometheus gone", "Prometheus back"


@dataclass(frozen=True, slots=True)
class Timing:
    """When what breaks."""

    first_after_seconds: float = 10.0
    """From the burst until the leader is killed: workers are on their way then."""
    between_seconds: float = 5.0
    """From there until Prometheus is gone."""
    missing_seconds: float = 60.0


SHORT = Timing(first_after_seconds=3, between_seconds=3, missing_seconds=25)
"""For the short pattern: the pool falls idle while its metrics are missing, and must hold all the same."""

Tell = Callable[[Mark], None]


def kill_leader(api: Api) -> str:
    """Delete the operator pod that leads, at once and without grace. Returns its name."""
    pod = leader(api)
    if pod is None:
        raise ApiError(0, f"no operator pod in {OPERATOR_NAMESPACE} holds the lease")
    api.delete(f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{pod}", gracePeriodSeconds="0")
    return pod


@contextmanager
def without_prometheus(api: Api) -> Iterator[None]:
    """Prometheus is gone inside of this block, with everything that it had stored."""
    api.scale(OPERATOR_NAMESPACE, PROMETHEUS, 0)
    try:
        gone = until(lambda: not _prometheus_pods(api), 30)
        if not gone:
            raise ApiError(0, "Prometheus did not go away within 30 s")
        yield
    finally:
        api.scale(OPERATOR_NAMESPACE, PROMETHEUS, 1)


def scale_ins_without_metrics(timeline: Timeline) -> list[tuple[float, int, int]]:
    """Scale-ins between `Prometheus gone` and `Prometheus back`: there must be none."""
    gone, back = timeline.mark(PROMETHEUS_GONE), timeline.mark(PROMETHEUS_BACK)
    if gone is None:
        return []
    end = back.at if back else timeline.snapshots[-1].at
    return seen.scale_ins(timeline.snapshots, gone.at, end)


class Faults(threading.Thread):
    """Kills the leader, then takes Prometheus away for a minute, and says so."""

    def __init__(self, api: Api, tell: Tell, timing: Timing) -> None:
        super().__init__(name="faults", daemon=True)
        self._api = api
        self._tell = tell
        self._timing = timing
        self._ended = threading.Event()
        self.error = ""

    def run(self) -> None:
        """Begin after `first_after_seconds`."""
        try:
            if self._ended.wait(self._timing.first_after_seconds):
                return
            pod = kill_leader(self._api)
            self._tell(Mark(time.time(), LEADER_KILLED, f"the operator's leader {pod} was killed"))
            if self._ended.wait(self._timing.between_seconds):
                return
            with without_prometheus(self._api):
                self._tell(Mark(time.time(), PROMETHEUS_GONE, "Prometheus was deleted"))
                self._ended.wait(self._timing.missing_seconds)
                self._tell(Mark(time.time(), PROMETHEUS_BACK, "Prometheus comes back, without its memory"))
        except ApiError as error:
            self.error = f"a fault could not be injected: {error}"

    def end(self) -> None:
        """Repair what is broken, now."""
        self._ended.set()
        if self.is_alive():
            self.join(timeout=60)


def _prometheus_pods(api: Api) -> int:
    path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods"
    return len(api.items(path, labelSelector="app.kubernetes.io/component=prometheus"))
