"""Celery for a Flask app: each task runs in an application context of its own."""

from celery import Celery, Task


def make_celery(flask_app):
    class ContextTask(Task):
        def __call__(self, *args, **kwargs):
            with flask_app.app_context():
                return self.run(*args, **kwargs)

    celery = Celery("shop", task_cls=ContextTask, include=["shop.tasks"])
    celery.config_from_object(flask_app.config["CELERY"])
    celery.set_default()  # the app of every shared_task
    flask_app.extensions["celery"] = celery
    return celery
