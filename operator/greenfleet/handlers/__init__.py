"""kopf handlers: adapters of a few lines, no logic."""
