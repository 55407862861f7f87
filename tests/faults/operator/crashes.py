"""Many lives at a time, each with a crash in every step; and the comparison with the undisturbed one."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.faults.operator.life import STEPS, Crash, Life, Outcome, Plan, differences, unseen
from tests.faults.operator.nursery import HASTY
from tests.faults.operator.stage import Stage
from tests.integration.operator.harness import Object


@dataclass
class Verdict:
    """What a number of lives came to."""

    lives: int = 0
    steps: int = 0
    points: set[tuple[str, str, int, bool]] = field(default_factory=set)
    """Crashes that happened: (step, write, its number, after)."""
    crashes: int = 0
    writes: Counter[str] = field(default_factory=Counter)
    """Writes that were met by a crash, however often."""
    troubled: Counter[str] = field(default_factory=Counter)
    """Requests and events that something happened to, by kind; a kind that met none is not there."""
    troubled_steps: int = 0
    """Steps in which something happened to one at least."""
    takeovers: int = 0
    """Times that another replica led at the end of a step than at the end of the one before. Not in an upgrade, which
    ends both.
    """
    late: Counter[str] = field(default_factory=Counter)
    """Steps of disturbed lives that came about only after all may have been applied again, which repairs what nothing
    else does. The garbage collector takes as long now and then, so: beside the same of undisturbed lives.
    """
    late_undisturbed: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    """Times that a watch of the test had to list anew: what came and went meanwhile was not seen."""
    failures: list[Object] = field(default_factory=list)
    """Each with the plan that repeats it."""

    def as_json(self) -> Object:
        """One line."""
        return {
            "lives": self.lives, "steps": self.steps, "crashes": self.crashes, "crash_points": len(self.points),
            "kinds_of_writes": len(self.writes), "troubled": dict(self.troubled),
            "troubled_steps": self.troubled_steps, "takeovers": self.takeovers,
            "late": dict(self.late), "late_undisturbed": dict(self.late_undisturbed), "gaps": self.gaps,
            "failures": len(self.failures),
        }  # fmt: skip


def run(stage: Stage, directory: Path, plans: Sequence[Plan], *, at_once: int = 8) -> Verdict:
    """All plans, `at_once` at a time, each beside one undisturbed life with the same steps."""
    routes = list(dict.fromkeys(plan.steps for plan in plans))
    everything = [*(Plan(steps=steps) for steps in routes), *plans]

    def live(numbered: tuple[int, Plan]) -> list[Outcome]:
        number, plan = numbered
        return Life(stage, directory / f"life-{number}", plan).run()

    gaps = stage.chronicle.gaps
    with ThreadPoolExecutor(at_once) as threads:
        ended = list(threads.map(live, enumerate(everything)))
    calm = dict(zip(routes, ended, strict=False))
    verdict = Verdict(gaps=stage.chronicle.gaps - gaps)
    for number, (plan, outcomes) in enumerate(zip(everything, ended, strict=True)):
        judge(verdict, number, plan, outcomes, calm[plan.steps])
    return verdict


def judge(verdict: Verdict, number: int, plan: Plan, outcomes: list[Outcome], calm: list[Outcome]) -> None:
    """Adds to the verdict what one life came to, beside the undisturbed life with the same steps."""
    verdict.lives += 1
    verdict.takeovers += sum(
        bool(one.leader and other.leader) and one.leader != other.leader and other.step != "upgrade"
        for one, other in pairwise(outcomes)
    )
    for step, usual in zip(outcomes, calm, strict=False):
        verdict.steps += 1
        if step.waited > HASTY["all is applied again"]:
            (verdict.late_undisturbed if outcomes is calm else verdict.late)[step.step] += 1
        verdict.crashes += len(step.crashed)
        verdict.writes.update(step.crashed)
        for what, crash in zip(step.crashed, plan.crashes.get(step.step, ()), strict=False):
            verdict.points.add((step.step, what, crash.number, crash.after))
        if step.troubled:
            verdict.troubled_steps += 1
            verdict.troubled[plan.troubles[step.step].name] += step.troubled
        found = list(step.broken)
        if not found:
            found += [f"state: {line}" for line in differences(usual.picture, step.picture)]
            found += [f"made: {line}" for line in differences(usual.made, step.made)]
            found += unseen(step.step, step.made, step.sizes)
        if found:
            verdict.failures.append({
                "life": number, "step": step.step, "plan": plan.as_json(), "crashed": step.crashed, "found": found[:8],
                "sizes": {"undisturbed": usual.sizes, "here": step.sizes},
            })  # fmt: skip
            return  # what comes after it is no longer comparable


def all_points(standby: bool = False) -> Iterator[Plan]:
    """Lives that meet every write of every step once from before and once from after, in the order of their numbers:
    without an end.
    """
    number = 0
    while True:
        number += 1
        for after in (False, True):
            yield Plan(crashes={step: [Crash(number, after)] for step in STEPS}, standby=standby)


def sampled(chance: random.Random, steps: tuple[str, ...], *, twice: float = 0.3, standby: bool = False) -> Plan:
    """One crash in each step at a write drawn at random, and in some a second one on the way back."""
    crashes = {}
    for step in steps:
        some = [Crash(1 + int(chance.expovariate(1 / 8)), chance.random() < 0.5)]
        if chance.random() < twice:
            some.append(Crash(1 + int(chance.expovariate(1 / 5)), chance.random() < 0.5))
        crashes[step] = some
    return Plan(crashes=crashes, standby=standby, steps=steps)


def tell(verdict: Verdict, seed: int, kind: str) -> None:
    """One JSON line, and one for each failure."""
    for failure in verdict.failures:
        print(json.dumps({"kind": kind, "seed": seed, **failure}), flush=True)
    print(json.dumps({"kind": kind, "seed": seed, **verdict.as_json()}), flush=True)
