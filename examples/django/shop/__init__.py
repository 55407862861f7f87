"""The project. The import makes `shop.celery.app` the app of every `shared_task`."""

from shop.celery import app as celery_app

__all__ = ("celery_app",)
