"""The ceiling: feeds through a bare GreenPool, with no broker, no messages and no acknowledgements."""

# ruff: noqa: E402

import eventlet

eventlet.monkey_patch()

import itertools
import sys

import fetch


def main() -> None:
    """For ever; whoever started this ends it."""
    pool = eventlet.GreenPool(int(sys.argv[1]))
    for number in itertools.count():
        pool.spawn_n(fetch.feed, number)


if __name__ == "__main__":
    main()
