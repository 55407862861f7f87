"""The green pool and what happens to a task in it: start, limits, end, resize, drain."""
