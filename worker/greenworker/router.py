"""For producers: send what blocks straight to the prefork companion, with no access to Kubernetes.

    app.conf.task_routes = [PreforkRouter("proj.parse", "proj.render_*")]
    stamp_publish_time()        # so that the workers can tell how long a message waited

A task whose author marked it, ``@app.task(pool="prefork")``, needs no name here. Without this router everything still
works: the Eventlet worker that receives such a message sends it on. Depends on Celery only.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from time import time
from typing import Any

SUFFIX = ".prefork"

PUBLISHED_AT = "greenfleet-published-at"
"""Message header: Unix seconds, decimal. Neither Celery nor Redis says when a message was published."""


def stamp_publish_time() -> None:
    """Stamp every task that this process publishes from now on. Calling it twice is calling it once."""
    from celery.signals import before_task_publish  # noqa: PLC0415 - with the first app, not with this module

    before_task_publish.connect(_stamp, weak=False, dispatch_uid=PUBLISHED_AT)


def _stamp(headers: Any = None, **_: Any) -> None:
    if isinstance(headers, dict):
        headers[PUBLISHED_AT] = f"{time():.6f}"


class PreforkRouter:
    """A Celery router. *tasks* are names or globs; *queue* is the pool's queue if it is not the app's default one."""

    def __init__(self, *tasks: str, queue: str | None = None) -> None:
        self.tasks = tasks
        self.queue = queue

    def __call__(
        self, name: str, args: Any, kwargs: Any, options: dict[str, Any], task: Any = None, **_: Any
    ) -> dict[str, Any] | None:
        """Celery's routing protocol; None leaves the decision to the next router."""
        marked = getattr(task, "pool", None) == "prefork"
        if not marked and not any(fnmatchcase(name, pattern) for pattern in self.tasks):
            return None
        queue = self.queue
        if queue is None:
            app = getattr(task, "app", None)
            if app is None:
                from celery import current_app  # noqa: PLC0415 - a task sent by name only

                app = current_app
            queue = str(app.conf.task_default_queue)
        return {"queue": queue if queue.endswith(SUFFIX) else queue + SUFFIX}
