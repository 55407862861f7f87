"""From the command line to Celery: what the launcher does, in its order, and what it refuses."""
