"""The feed hub of Celery's documentation, measured. ``python -m bench.feedhub``."""
