"""How long a fault run waits for what its fleet owes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

from tests.faults.history import Process, Sent
from tests.faults.run import await_stable, until_quiet


@dataclass
class DoneFile:
    """All that is asked of a fleet here."""

    done_file: Path

    def records(self) -> list[Process]:
        return []


def sent(count: int) -> list[Sent]:
    return [Sent(f"t{number}", "short", at=0.0, confirmed_at=0.0) for number in range(count)]


def test_a_fleet_that_is_slow_but_goes_on_has_lost_nothing(tmp_path: Path) -> None:
    """On a busy machine, messages that waited behind tasks of a minute were called lost while workers ran them."""
    file = tmp_path / "done"
    file.write_text(f"done t0 w1 {monotonic()}\n")

    def work() -> None:
        for number in range(1, 4):
            sleep(0.3)
            with file.open("a") as log:
                log.write(f"done t{number} w1 {monotonic()}\n")

    worker = Thread(target=work)
    worker.start()
    assert until_quiet(DoneFile(file), sent(4), monotonic(), quiet_seconds=0.0, progress_seconds=60.0) == set()
    worker.join()


def test_what_nobody_does_is_owed_in_the_end(tmp_path: Path) -> None:
    file = tmp_path / "done"
    file.write_text(f"done t0 w1 {monotonic()}\n")
    assert until_quiet(DoneFile(file), sent(2), monotonic(), progress_seconds=0.2) == {"t1"}
    assert until_quiet(DoneFile(file), sent(2), monotonic()) == {"t1"}


def test_a_broker_is_looked_at_until_it_has_taken_back_what_its_workers_held() -> None:
    held = iter([9, 4, 4, 0])
    await_stable(lambda: next(held), 30.0)
    assert next(held) == 0, "not looked at any more once it stood still"
