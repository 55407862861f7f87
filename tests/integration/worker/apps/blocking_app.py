"""A user's module in which each task blocks the hub in another way, on the line that is marked."""

# A user's module: no types, no habits of ours.
# mypy: ignore-errors
# ruff: noqa: PTH123, SIM115

import contextlib
import ctypes
import hashlib
import json
import os
import posix
import re
import sqlite3
import subprocess
import threading
import zlib

from celery import Celery, signals
from eventlet import patcher

app = Celery("blocking_app")
app.conf.task_default_queue = "feeds"
app.conf.task_ignore_result = True

real_time = patcher.original("time")
real_threading = patcher.original("threading")
real_socket = patcher.original("socket")
libc = ctypes.PyDLL(None)  # unlike CDLL it keeps the interpreter locked
guard = threading.Lock()
noise = os.urandom(1 << 20) * 40
text = json.dumps([{"n": n} for n in range(900_000)])


@signals.task_postrun.connect
def note(task=None, **_):
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(f"done {task.name.partition('.')[2]}\n")


@app.task
def loop():
    end = real_time.monotonic() + 0.7
    while real_time.monotonic() < end:
        sum(range(2000))  # blocks


@app.task
def regular_expression():
    """Holds the interpreter, with the CPU, for as long as it takes."""
    re.match(r"(a+)+$", "a" * 24 + "b")  # blocks


@app.task
def extension_that_keeps_the_interpreter():
    """Holds the interpreter, without the CPU: a careless C extension that waits."""
    libc.usleep(700_000)  # blocks


@app.task
def parser():
    json.loads(text)  # blocks


@app.task
def digest():
    """Releases the interpreter."""
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1_500_000)  # blocks


@app.task
def compression():
    zlib.compress(noise, 6)  # blocks


@app.task
def database():
    query = "with recursive c(x) as (select 1 union all select x + 1 from c where x < 4000000) select sum(x) from c"
    sqlite3.connect(":memory:").execute(query).fetchall()  # blocks


@app.task
def resolver():
    with contextlib.suppress(OSError):
        real_socket.getaddrinfo("feeds.example", 80)  # blocks


@app.task
def file(path):
    open(path).read()  # blocks


@app.task
def lock():
    real_threading.Lock().acquire()
    held = real_threading.Lock()
    held.acquire()
    held.acquire(timeout=0.7)  # blocks


@app.task
def shell():
    os.system("sleep 0.7")  # blocks


@app.task
def child():
    process = subprocess.Popen(["sleep", "0.7"])
    posix.waitpid(process.pid, 0)  # blocks


@app.task
def sleep():
    real_time.sleep(0.7)  # blocks


@app.task
def thread_that_keeps_the_interpreter():
    """Not on the hub's thread: nobody's task is on the stack there, and the hub halts all the same."""
    thread = real_threading.Thread(target=libc.usleep, args=(700_000,))
    thread.start()
    thread.join()


@app.task
def cooperative():
    """What is patched does not block: a lock, a sleep, a child."""
    with guard:
        subprocess.run(["sleep", "0.3"], check=True)


@app.task
def crunch():
    """An honest piece of work: 30 ms of CPU, however long it takes to get them."""
    end = real_time.thread_time() + 0.03
    while real_time.thread_time() < end:
        sum(range(200))
