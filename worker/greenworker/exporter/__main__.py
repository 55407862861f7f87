"""``python -m greenworker.exporter``."""

from __future__ import annotations

import os
import signal
from types import FrameType

from greenworker.exporter.exporter import Exporter, Options
from greenworker.misconfigured import MisconfiguredError, exit_misconfigured
from greenworker.monitoring.exposition import Exposition, listen


def main() -> None:
    """Runs until SIGTERM; it holds nothing that would have to be saved."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    try:
        exporter = Exporter(Options.read(os.environ))
        Exposition(listen(exporter.options.port), exporter.scrape, exporter.unhealthy, exporter.unready).start()
    except MisconfiguredError as error:
        exit_misconfigured(error)
    exporter.run()


if __name__ == "__main__":
    main()
