"""Feedhub: the classic job for green threads, as any team would write it.

Thousands of feeds are fetched over HTTP, each of them mostly waiting; a little is parsed, and what was done is
recorded. Nothing in this package knows about Kubernetes or about Greenfleet: the same code runs on a laptop with
`celery -A feedhub worker -P eventlet`.
"""
