"""What must be taken before monkey-patching, for code that runs in real operating-system threads.

The launcher imports this module first. The C classes behind ``socket`` and ``threading`` are used directly, because the
Python ones refer to module globals that patching replaces under them. Imports the standard library only.
"""

import _socket
import _thread
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress

from greenworker.redaction import redacted

Socket = _socket.socket
AF_INET = _socket.AF_INET
AF_INET6 = _socket.AF_INET6
SOCK_STREAM = _socket.SOCK_STREAM
SOL_SOCKET = _socket.SOL_SOCKET
SO_REUSEADDR = _socket.SO_REUSEADDR
IPPROTO_IPV6 = _socket.IPPROTO_IPV6
IPV6_V6ONLY = _socket.IPV6_V6ONLY

start_thread = _thread.start_new_thread
thread_id = _thread.get_ident
allocate_lock = _thread.allocate_lock
ReentrantLock = _thread.RLock
sleep = time.sleep
poll = select.poll
POLLIN = select.POLLIN
write = os.write
main_thread_id = _thread.get_ident()


shape: Callable[[str], str] | None = None
"""How the application writes a line of its log, where it has a form of its own (`greenworker.bootstrap.log_lines`)."""


def say(message: str) -> None:
    """One line on stderr, from any thread, at any moment, in a signal handler too. Without passwords."""
    message = redacted(message)
    line = f"greenworker: {message}"
    if shape is not None:
        with suppress(Exception):
            line = shape(message)
    with suppress(OSError):
        write(2, f"{line}\n".encode(errors="replace"))
