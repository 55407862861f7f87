"""How much a task costs in a worker: ours beside stock Celery, pairs in one run. ``python -m bench.worker``."""
