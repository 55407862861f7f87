"""Free TCP ports for the servers and workers that tests start.

A port that the kernel would give (a bind to port 0) is from the range of outgoing connections, so any client may
have it between the moment it is found and the moment its server listens. These are from below that range (32768 on
Linux) and below the ports of `cluster/kubelocal` (20000), whose processes the tests restart. Each of pytest's processes
has its own.
"""

import os
import random
import socket
from itertools import cycle, islice

_PER_PROCESS = 1000


def _own_ports() -> range:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    first = 11000 + _PER_PROCESS * (int(worker.removeprefix("gw")) % 8 if worker else 8)
    return range(first, first + _PER_PROCESS)


_ports = cycle(random.sample(_own_ports(), _PER_PROCESS))  # in an order by chance: two runs at once seldom meet


def free_port() -> int:
    """A port on which nothing listens, and which this process has not got for its last thousand calls."""
    for port in islice(_ports, _PER_PROCESS):
        with socket.socket() as listener:
            try:
                listener.bind(("", port))
            except OSError:
                continue
        return port
    raise OSError(f"each port of {_own_ports()} is taken")
