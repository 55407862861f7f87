"""What a worker never needs and would import all the same: the interactive shell of ``celery amqp``.

At a tenth of a core half a second of importing is five seconds of waiting for a worker, and a fifth of it is
prompt_toolkit. Nobody can give that command to this process. Standard library only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_shell() -> Iterator[None]:
    """While ``celery.bin`` is imported: its one use of click_repl registers a command. Whoever imports it later gets
    it.
    """
    if "click_repl" in sys.modules:
        yield
        return
    stand_in = ModuleType("click_repl")
    stand_in.register_repl = lambda group, name="repl": None  # type: ignore[attr-defined]
    sys.modules["click_repl"] = stand_in
    try:
        yield
    finally:
        del sys.modules["click_repl"]
