"""For producers: send what blocks straight to the prefork companion, with no access to Kubernetes.

    app.conf.task_routes = [PreforkRouter("proj.parse", "proj.render_*")]

A task whose author marked it, ``@app.task(pool="prefork")``, needs no name here. Without this router everything still
works: the Eventlet worker that receives such a message sends it on. Depends on Celery only.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

SUFFIX = ".prefork"


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
