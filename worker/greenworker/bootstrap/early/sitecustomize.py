"""Patches for Eventlet, then lets the image's own ``sitecustomize`` run, as if this one were not there.

Auto-instrumentation (OpenTelemetry's, Datadog's) starts with a ``sitecustomize`` that imports Celery and kombu. What
they have taken from the standard library by then is not green. Standard library only until the patch; it must never
keep Python from starting.
"""

# ruff: noqa: PTH100, PTH120

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec


def hide() -> None:
    """Of this directory nothing is left, here or for child processes."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    original = os.environ.get("_GREENFLEET_PYTHONPATH", "")
    os.environ.pop("PYTHONPATH", None)
    if original:
        os.environ["PYTHONPATH"] = original
    library = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    if library not in sys.path:
        sys.path.append(library)


def patch() -> None:
    """Before everything else; what is missing is the launcher's to say."""
    try:
        from greenworker import native  # noqa: F401, PLC0415 - takes the real threads and sockets first
        from greenworker.hub import patch  # noqa: PLC0415
    except ImportError:
        return
    try:
        patch()
    except ImportError:
        return


def run_the_images() -> None:
    """Python would have imported it; its errors are the same."""
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


hide()
patch()
run_the_images()
