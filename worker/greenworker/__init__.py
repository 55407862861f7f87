"""greenworker: the runtime that Celery's Eventlet pool does not have. Runs beside the user's code, in the user's image.

Imports the standard library and the user's own Celery, kombu, Eventlet and redis, nothing else: whatever the user's
image has besides, it cannot clash with us.
"""

__version__ = "0.1.0"
