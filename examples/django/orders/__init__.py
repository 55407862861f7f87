"""The Django app with a model and its tasks."""
