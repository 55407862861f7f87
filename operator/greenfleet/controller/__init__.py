"""What runs: the registry of pools, the reconciler, the scaling loop, and the writer of status."""
