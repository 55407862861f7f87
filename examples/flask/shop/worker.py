"""What the worker loads: `spec.app: shop.worker`. Celery calls no factory, so this module does."""

from shop import create_app

app = create_app().extensions["celery"]
