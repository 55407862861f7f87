"""Starts a Celery worker with greenworker inside it: ``python -m greenworker …`` or ``<python>
/greenfleet/bin/launch.py …``.

The order is the point. Monkey-patching comes before everything that opens a socket; our libraries are *appended* to the
path, so that the user's own versions win; what is missing is said in four parts before Celery's own errors hide it.
Only the standard library until then, and no syntax that an old Python could not read: it must be able to say so.
"""

# Must run, far enough to complain, on any Python 3.
# ruff: noqa: PTH100, PTH109, PTH118, PTH119, PTH120, PTH123, PLC0415, UP036

import os
import sys


def find_library() -> None:
    """When run as a file (agent ``Inject``): our package lies in ../lib, and bin/ is nobody's import path."""
    here = os.path.dirname(os.path.abspath(__file__))
    if os.path.basename(here) != "bin":
        return
    if sys.path and os.path.abspath(sys.path[0] or ".") == here:
        sys.path[0] = os.getcwd()
    library = os.path.join(os.path.dirname(here), "lib")
    if library not in sys.path:
        sys.path.append(library)


def check_python() -> None:
    """Too old a Python cannot even read the rest of the package."""
    if sys.version_info >= (3, 10):
        return
    import json

    text = json.dumps(
        {
            "field": "image",
            "value": "Python " + sys.version.split()[0],
            "reason": "greenworker needs Python 3.10 or newer",
            "fix": "use an image with Python 3.10 or newer, or name the right interpreter in worker.python",
        }
    )
    sys.stderr.write("greenworker: cannot start: " + text + "\n")
    try:
        with open(os.environ.get("GREENWORKER_TERMINATION_LOG") or "/dev/termination-log", "w") as log:
            log.write(text + "\n")
    except OSError:
        pass
    os._exit(78)


def main() -> None:
    """Never returns: the worker's exit status is the process's."""
    find_library()
    check_python()
    from greenworker import native  # noqa: F401 - takes the real threads and sockets before they are patched
    from greenworker.bootstrap.start import start

    start(sys.argv[1:])


if __name__ == "__main__":
    main()
