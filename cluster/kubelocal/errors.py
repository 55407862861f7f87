"""The one exception that reaches the person at the terminal."""

from __future__ import annotations


class ClusterError(Exception):
    """Says what failed, why, and what to do about it. Printed without a traceback."""
