"""The prefork companion: tasks that block run in processes, with the same metrics, health and drain."""
