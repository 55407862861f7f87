"""The same two tasks for every worker that is measured, and how each of them is started, filled and watched."""
