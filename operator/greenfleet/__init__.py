"""Greenfleet: a Kubernetes operator for fleets of Celery workers on the Eventlet pool."""

__version__ = "0.1.0"
