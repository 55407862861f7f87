"""Settings from the environment. Names that begin with `CELERY_` are Celery's."""

import os

SECRET_KEY = os.environ["SECRET_KEY"]
INSTALLED_APPS = ["orders"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["DATABASE_HOST"],
        "PORT": os.environ.get("DATABASE_PORT", "5432"),
        "NAME": os.environ["DATABASE_NAME"],
        "USER": os.environ["DATABASE_USER"],
        "PASSWORD": os.environ.get("DATABASE_PASSWORD", ""),
        # A worker has hundreds of green threads and PostgreSQL has 100 connections by default: they share these. Times
        # the most workers of the pool, this has to fit into PostgreSQL's max_connections.
        "OPTIONS": {"pool": {"min_size": 0, "max_size": 20, "timeout": 60}},
    }
}

# The worker takes CELERY_BROKER_URL from its pool; the web server takes the same variable from its Deployment.
CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")
CELERY_TASK_DEFAULT_QUEUE = "orders"
CELERY_TASK_IGNORE_RESULT = True
