"""The test app, asked to leave while it receives its fifth message, in the middle of a delivery."""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

from celery import signals
from green_app import app

received = itertools.count(1)


@signals.task_received.connect
def leave(**_: Any) -> None:
    if next(received) == 5:
        os.kill(os.getpid(), signal.SIGTERM)


__all__ = ["app"]
