"""Workers that are kept warm because the recent past proved the need.

Where pods start slower than the objective allows, no decision at the moment of a burst can keep the promise; only workers
that are there already can. The autoscaler does not guess: it keeps them when it has happened twice, and says so.
"""

from __future__ import annotations

from .state import ColdStartMiss

REMEMBERED_SECONDS = 1800.0
ONE_EVENT_SECONDS = 60.0
"""Proofs closer together than this are one event."""
_MOST = 8


def prove(cold_start_misses: tuple[ColdStartMiss, ...], workers: int, now: float) -> tuple[ColdStartMiss, ...]:
    """The cold_start_misses with one more moment at which so many warm workers would have been needed."""
    kept = tuple(miss for miss in cold_start_misses if miss.at > now - REMEMBERED_SECONDS)
    if workers <= 0:
        return kept
    if kept and now - kept[-1].at < ONE_EVENT_SECONDS:
        return (*kept[:-1], ColdStartMiss(kept[-1].at, max(kept[-1].workers, workers)))
    return (*kept, ColdStartMiss(now, workers))[-_MOST:]


def wanted(cold_start_misses: tuple[ColdStartMiss, ...], now: float) -> tuple[int, float]:
    """Workers to keep warm and until when: the second largest need (one outlier proves nothing), for twice the last gap."""
    kept = [miss for miss in cold_start_misses if miss.at > now - REMEMBERED_SECONDS]
    if len(kept) < 2:
        return 0, now
    until = kept[-1].at + min(REMEMBERED_SECONDS, 2 * (kept[-1].at - kept[-2].at))
    if now >= until:
        return 0, now
    return sorted((miss.workers for miss in kept), reverse=True)[1], until
