"""What goes wrong: each kind of disruption is a method that does it, waits, and undoes it.

The order is drawn from a seed; every disruption is written down with its target and its interval, and with what it may
do to messages (`history.Disruption`). To add a kind: a method `_NAME` here, its name in `Nemesis.kinds` for the brokers
that have it, and in `_BROKER_AWAY` if who publishes meanwhile may not know whether the broker has the message.

What each kind may do, and why; a flag that a kind does not set excuses nothing:

    kind                    flag                   why
    sigkill,                may_repeat             what its worker had not settled comes back
    companion_killed,
    out_of_memory
    probe_failed            may_repeat             the same; from its worker's last line on: the hub stood still since
    freeze                  may_repeat             for longer than the broker waits for its heartbeat
                            stalls                 what it gets when it goes on may have been on its way since the start
    drain, rollout          may_repeat             only if the broker is away meanwhile, and only from then on: it ends
                                                   like a kill (`history.cut_off`)
    drain_over              unfinished             part of a drain: when its time is over it gives back what is not
                                                   settled, though the task's author may see it as done
    cut, unreachable,       loses_confirmations    who publishes then may publish again
    silent_connection,      may_repeat             on RabbitMQ, which redelivers what a lost connection had not
    broker_silent,                                 acknowledged; on Redis what runs stays its worker's
    broker_killed
    connections_closed,     loses_confirmations,   RabbitMQ's own: as a lost connection
    node_lost               may_repeat
    failover                forgets_until          the new master may lack that a message was published, fetched or
                                                   settled within `LAGS_SECONDS` before the death; what a worker only
                                                   has then stays its own
                            loses_confirmations    from the death until the promotion
    redis_read_only,        loses_confirmations    writes are refused
    redis_full
    disk_full               loses_confirmations    Redis refuses writes, RabbitMQ stops who publishes
                            delays_confirmations   on RabbitMQ, for longer than a worker waits with a copy
    results_killed          counts_anew            who sends the body of a chord then may send it again: the part that
                                                   completes it is counted anew where the answer was lost
    results_killed,         delays_results         a task with a result that has ended is not settled before it is
    results_silent                                 stored; what happens to its message until then may repeat it
    block, resize,          none                   a task blocks the hub (then `probe_failed`), another limit, another
    clock_step                                     wall clock
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from tests.faults.fleet import (
    DRAIN_SECONDS,
    GRACE_SECONDS,
    Fleet,
    Member,
    local_addresses,
    set_clock,
    until_all_consume,
)
from tests.faults.history import SIGKILLED, Disruption, Event, cut_off, killed_by_probe
from tests.faults.memory import MemoryLimits
from tests.integration.worker.harness import Producer, RabbitMQ, Redis, Relay, Sentinel, eventually

FROZEN_SECONDS = 24.0
"""Longer than the 20 s after which a worker on Redis counts as dead."""

UNREACHABLE_SECONDS = 5.0
"""The long form has 60 s."""

LOST_SECONDS = 1.0
"""Both sides of a connection know so soon that it is lost."""

LIMIT_BYTES = 64 * 1024 * 1024
"""What a worker may allocate more while its memory is limited; the task that takes its memory asks for four
times that.
"""

GIVES_BACK_SECONDS = 10.0
"""Within so long after its own time a drain has ended."""

LAGS_SECONDS = 1.0
"""A replica is so far behind its master at most, so that a new master may lack what was written in this time before the
old one died. A master hands each write to its replica within the same turn of its event loop, and both are on one
machine; a second is for a replica that waits for a busy processor.
"""

_BROKER_AWAY = {
    "cut", "unreachable", "silent_connection", "broker_silent", "broker_killed", "redis_read_only", "redis_full",
    "connections_closed", "disk_full", "node_lost", "failover",
}  # fmt: skip
"""Whoever publishes then may not know that the broker has the message, or that it has published it."""


class Nemesis:
    """Disrupts one fleet and its broker."""

    def __init__(  # noqa: PLR0917 - it acts on everything
        self,
        fleet: Fleet,
        server: Any,
        results: Redis,
        relay: Relay,
        producer: Producer,
        rng: random.Random,
        peer: RabbitMQ | None = None,
        unreachable_seconds: float = UNREACHABLE_SECONDS,
    ) -> None:
        """*results*: where they are stored. *peer*: another node of the same cluster. *unreachable_seconds*: how long
        the broker cannot be reached.
        """
        self.disruptions: list[Disruption] = []
        self._fleet, self._server, self._relay, self._producer, self._rng = fleet, server, relay, producer, rng
        self._results, self._peer, self._unreachable_seconds = results, peer, unreachable_seconds
        self._frozen: list[threading.Thread] = []
        self._silent: list[tuple[str, float, tuple[socket.socket, socket.socket]]] = []
        """Worker, time, and both sides of a connection that was silenced."""
        self._memory = MemoryLimits()
        self._limited: list[tuple[str, float, float]] = []
        """Whose memory was limited, from when until when."""

    def kinds(self) -> list[str]:
        """All that make sense for this broker."""
        kinds = ["drain", "rollout", "sigkill", "freeze", "block", "resize", "companion_killed"]
        kinds += ["results_killed", "results_silent"]
        if isinstance(self._server, Sentinel):  # workers go where it sends them, past the relay
            kinds += ["failover"]
        else:
            kinds += ["cut", "unreachable", "silent_connection", "broker_silent", "broker_killed"]
        if self._fleet.clocks:
            kinds += ["clock_step"]
        if self._peer is not None:
            kinds += ["node_lost"]
        if self._memory.available:
            kinds += ["out_of_memory"]
        if isinstance(self._server, Redis):
            kinds += ["redis_read_only", "redis_full"]
            kinds += ["disk_full"] if self._server.directory.is_mount() else []
        if isinstance(self._server, RabbitMQ):
            kinds += ["connections_closed", "disk_full"]
        return kinds

    def unavailable(self) -> list[str]:
        """Kinds that make sense for this broker, and that this machine does not have: a small disk needs `mount`, a
        worker's own clock `cc`, a limit of its memory a cgroup that may be written.
        """
        wanted = ["out_of_memory"]
        wanted += ["disk_full"] if isinstance(self._server, Redis | RabbitMQ) else []
        wanted += ["clock_step"] if self._fleet.own_clocks else []
        return sorted(set(wanted) - set(self.kinds()))

    def run(self, rounds: int, until: float = float("inf")) -> None:
        """*rounds* times every kind, in an order of its own, or as many as fit before *until* (monotonic)."""
        for _ in range(rounds):
            kinds = self.kinds()
            self._rng.shuffle(kinds)
            # It takes longest, and goes on beside the others.
            for kind in sorted(kinds, key=lambda each: each != "freeze"):
                if monotonic() > until:
                    return
                disrupt: Callable[[], None] = getattr(self, f"_{kind}")
                disrupt()
                sleep(self._rng.uniform(0.5, 2.0))
        for thread in self._frozen:
            thread.join(FROZEN_SECONDS + 10)

    def finish(self, events: Sequence[Event]) -> list[Disruption]:
        """All disruptions, those included that followed from others: who was killed by its probe. *events*: the tasks'
        own log.
        """
        killed = [killed_by_probe(name, at, events) for name, at in self._fleet.killed]
        probed = {name for name, _ in self._fleet.killed}
        ended = [
            one
            for one in self._fleet.ended
            if one.status == SIGKILLED
            and one.name not in probed
            and any(
                one.name == name and start <= one.at and end >= one.seen_alive_at for name, start, end in self._limited
            )
        ]
        noted = {one.target for one in self.disruptions if one.kind == "sigkill"}
        starved = [
            Disruption("out_of_memory", one.name, one.seen_alive_at, one.at, True)
            for one in ended
            if one.name not in noted
        ]
        drained = [self._drain_over(one) for one in self.disruptions if one.kind in ("drain", "rollout")]
        known = [*self.disruptions, *drained, *starved, *(self._silence(*one) for one in self._silent)]
        left = {one.worker: one.left for one in self._fleet.records()}
        return [
            *(
                cut_off(one, left.get(one.target) or one.start + GRACE_SECONDS, known)
                if one.kind in ("drain", "rollout")
                else one
                for one in known
            ),
            *killed,
        ]

    @staticmethod
    def _drain_over(drain: Disruption) -> Disruption:
        over = drain.start + DRAIN_SECONDS
        return Disruption(
            "drain_over", drain.target, over, over + GIVES_BACK_SECONDS, may_repeat=False, unfinished=True
        )

    def _silence(self, worker: str, start: float, sides: tuple[socket.socket, socket.socket]) -> Disruption:
        """Until one side has given the connection up."""
        end = min((self._relay.silence_ended.get(side, float("inf")) for side in sides), default=float("inf"))
        return self._disruption("silent_connection", worker, start, end + LOST_SECONDS, self._repeats_on_reconnect())

    @contextmanager
    def _noted(self, kind: str, target: str, *, may_repeat: bool) -> Iterator[None]:
        start = monotonic()
        try:
            yield
        finally:
            self.disruptions.append(self._disruption(kind, target, start, monotonic(), may_repeat))

    def _disruption(self, kind: str, target: str, start: float, end: float, may_repeat: bool) -> Disruption:
        return Disruption(
            kind,
            target,
            start,
            end,
            may_repeat,
            loses_confirmations=kind in _BROKER_AWAY,
            delays_confirmations=kind == "disk_full" and isinstance(self._server, RabbitMQ),
            counts_anew=kind == "results_killed",
            delays_results=kind in ("results_killed", "results_silent"),
            stalls=kind == "freeze",
        )

    def _any_member(self) -> Member:
        awake = [member for member in self._fleet.members if not member.frozen]
        return self._rng.choice(awake)

    # workers

    def _drain(self) -> None:
        """A pod is deleted, evicted, or scaled in: SIGTERM, and a new one comes. A task that outlasts the drain is
        requeued.
        """
        member = self._any_member()
        with self._noted("drain", member.worker.name, may_repeat=False):
            self._fleet.replace(member)
            sleep(1.0)

    def _rollout(self) -> None:
        """All of them, one after another."""
        for member in self._fleet.members:
            if not member.frozen:
                with self._noted("rollout", member.worker.name, may_repeat=False):
                    self._fleet.replace(member)
                    sleep(1.5)

    def _sigkill(self) -> None:
        """Out of memory, a lost node."""
        worker = self._any_member().worker
        with self._noted("sigkill", worker.name, may_repeat=True):
            worker.signal(signal.SIGKILL)

    def _freeze(self) -> None:
        """A process that stands still for longer than its heartbeat's time-out, and then goes on."""
        member = self._any_member()
        member.frozen = True
        worker = member.worker

        def freeze() -> None:
            with self._noted("freeze", worker.name, may_repeat=True):
                worker.signal(signal.SIGSTOP)
                sleep(FROZEN_SECONDS)
                worker.signal(signal.SIGCONT)
                sleep(2.0)
            member.frozen = False

        thread = threading.Thread(target=freeze, daemon=True)
        thread.start()
        self._frozen.append(thread)

    def _block(self) -> None:
        """A task that blocks the hub for longer than the watchdog allows: whoever gets it is killed by its probe."""
        with self._noted("block", "", may_repeat=False):
            self._producer.app.send_task("fault_app.spin", (12,), queue=self._producer.queue)

    def _out_of_memory(self) -> None:
        """A task takes more memory than its worker may have: the kernel kills the worker. See `finish` for who
        it was.
        """
        before, start, limited = len(self._fleet.ended), monotonic(), []
        for member in self._fleet.members:
            worker = member.worker
            if worker.process is not None and not worker.gone():
                limited.append(worker.name)
                self._memory.limit(worker.process.pid, LIMIT_BYTES)
        self._producer.app.send_task("fault_app.hog", (4 * LIMIT_BYTES,), queue=self._producer.queue)
        until = monotonic() + 10.0
        while len(self._fleet.ended) == before and monotonic() < until:
            sleep(0.2)
        self._memory.lift()
        self._limited += [(name, start, monotonic()) for name in limited]

    def _resize(self) -> None:
        """The autoscaler's: fewer green threads, more, and back."""
        worker = self._any_member().worker
        with self._noted("resize", worker.name, may_repeat=False):
            for threads in (2, 60, 20):
                worker.resize(threads)
                sleep(0.7)

    def _clock_step(self) -> None:
        """The wall clock of a worker jumps by a minute, and back. Its monotonic clock does not."""
        worker = self._any_member().worker
        with self._noted("clock_step", worker.name, may_repeat=False):
            for offset in self._rng.sample([60, -60], 2):
                set_clock(self._fleet.clocks[worker.name], offset)
                sleep(5.0)
            set_clock(self._fleet.clocks[worker.name], 0)

    def _companion_killed(self) -> None:
        worker = self._fleet.companion.worker
        with self._noted("companion_killed", worker.name, may_repeat=True):
            worker.signal(signal.SIGKILL)

    # between workers and broker

    def _cut(self) -> None:
        """Every connection breaks; new ones work."""
        with self._noted("cut", "", may_repeat=self._repeats_on_reconnect()):
            self._relay.cut()

    def _unreachable(self) -> None:
        """The broker cannot be reached for some seconds. After a long time nothing else is done until all consume."""
        port = self._relay.target
        with self._noted("unreachable", "", may_repeat=self._repeats_on_reconnect()):
            self._relay.refuse()
            self._relay.cut()
            sleep(self._unreachable_seconds)
            self._relay.accept(port)
        if self._unreachable_seconds > UNREACHABLE_SECONDS:
            until_all_consume(self._fleet)

    def _silent_connection(self) -> None:
        """One connection of a worker swallows everything while the others work."""
        start = monotonic()
        sides = self._relay.silence_one(self._rng)
        if sides is not None:
            self._silent.append((self._owner(sides[0]), start, sides))
        sleep(1.0)

    def _owner(self, side: socket.socket) -> str:
        """The worker at the other end of *side*; "nobody" if it has ended."""
        try:
            found = ("127.0.0.1", side.getpeername()[1])
        except OSError:
            return "nobody"
        for name, process in self._fleet.processes().items():
            if found in local_addresses(process):
                return name
        return "nobody"

    # the broker

    def _broker_silent(self) -> None:
        """It stands still: connections stay open, nobody answers."""
        with self._noted("broker_silent", "", may_repeat=self._repeats_on_reconnect()), self._server.silent():
            sleep(3.0)

    def _broker_killed(self) -> None:
        """As a power cut, with what is on disk."""
        with self._noted("broker_killed", "", may_repeat=self._repeats_on_reconnect()):
            self._server.kill()
            sleep(1.0)
            self._server.start()

    def _connections_closed(self) -> None:
        """By the administrator."""
        with self._noted("connections_closed", "", may_repeat=True):
            self._server.close_connections()

    def _redis_read_only(self) -> None:
        """As a master that became a replica: writes are refused until it is a master again."""
        client = self._server.client()
        with self._noted("redis_read_only", "", may_repeat=False):
            client.replicaof("127.0.0.1", "1")
            sleep(3.0)
            client.replicaof("NO", "ONE")

    def _redis_full(self) -> None:
        """At its memory limit, with nothing to evict."""
        client = self._server.client()
        with self._noted("redis_full", "", may_repeat=False):
            client.config_set("maxmemory", "1mb")
            sleep(3.0)
            client.config_set("maxmemory", "0")

    def _node_lost(self) -> None:
        """The workers' node of a cluster dies; they find another one, and come back to it."""
        assert self._peer is not None
        with self._noted("node_lost", "", may_repeat=True):
            self._server.kill()
            self._relay.accept(self._peer.port)
            self._relay.cut()
            sleep(5.0)
            self._server.start()
        with self._noted("cut", "", may_repeat=True):
            self._relay.accept(self._server.port)
            self._relay.cut()

    def _failover(self) -> None:
        """The master dies, and a Sentinel promotes its replica, which may lack the last writes."""
        died, promoted = self._server.fail_over_and_mend()
        forgets = Disruption("failover", "", died - LAGS_SECONDS, died, may_repeat=False, forgets_until=died)
        away = Disruption(
            "failover", "", died, promoted, may_repeat=False, loses_confirmations=True, counted=False
        )  # fmt: skip
        self.disruptions += [forgets, away]

    def _disk_full(self) -> None:
        """The broker cannot write: Redis refuses writes, RabbitMQ's alarm stops who publishes."""
        with self._noted("disk_full", "", may_repeat=False):
            if isinstance(self._server, RabbitMQ):
                self._server.control("set_disk_free_limit", "1000000GB")
                sleep(3.0)
                self._server.control("set_disk_free_limit", "1MB")
                return
            client = self._server.client()
            client.config_set("appendfsync", "everysec")  # with "always" Redis ends itself
            filler = self._server.directory / "filler"
            fill(filler)
            sleep(3.0)
            filler.unlink()
            eventually(lambda: client.info("persistence")["aof_last_write_status"] == "ok", "Redis writes again")
            client.config_set("appendfsync", "always")

    # the results

    def _results_killed(self) -> None:
        """Their Redis is restarted, with what it had on disk."""
        with self._noted("results_killed", "", may_repeat=False):
            self._results.kill()
            sleep(5.0)
            self._results.start()

    def _results_silent(self) -> None:
        """Their Redis stands still."""
        with self._noted("results_silent", "", may_repeat=False), self._results.silent():
            sleep(3.0)

    def _repeats_on_reconnect(self) -> bool:
        """RabbitMQ redelivers what a lost connection had not acknowledged; on Redis what runs stays its worker's."""
        return isinstance(self._server, RabbitMQ)


def fill(file: Path) -> None:
    """Until the disk is full."""
    with suppress(OSError), file.open("wb", buffering=0) as sink:
        while True:
            sink.write(bytes(1 << 16))
