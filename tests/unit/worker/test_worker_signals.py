"""What a worker does when a signal comes, before anything else."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, types
from greenworker import hub, native
hub.patch()
from celery import signals
from celery.apps import worker
from greenworker.bootstrap import log_lines
log_lines.follow_the_application(["said before"])
signals.celeryd_after_setup.send(sender="w", instance=types.SimpleNamespace(quiet=False), conf=None)
import os, signal
order = []
def end(number, frame):
    worker.safe_say("worker: Warm shutdown (MainProcess)", sys.__stdout__)
    order.append("drain")
signal.signal(signal.SIGTERM, end)
def terminate():
    native.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)
native.start_thread(terminate, ())
hub.sleep(1.0)
native.write(1, f"{order}".encode())
"""


def test_celerys_words_at_sigterm_do_not_end_a_worker_that_waits_and_whose_output_is_a_pipe() -> None:
    """As every container's is. Celery writes with the `os.write` of the moment it is imported, which is Eventlet's
    here; that waits for the pipe, and the hub, in which the handler runs while nothing else does, may not wait.
    """
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "worker: Warm shutdown (MainProcess)\n['drain']" in done.stdout
    assert "said before" in done.stderr
