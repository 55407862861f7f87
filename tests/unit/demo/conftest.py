"""The feed hub is a user's project of its own: its package is found where the user would run it."""

from __future__ import annotations

import sys
from pathlib import Path

FEEDHUB = Path(__file__).resolve().parents[3] / "examples" / "feedhub"

if str(FEEDHUB) not in sys.path:
    sys.path.insert(0, str(FEEDHUB))
