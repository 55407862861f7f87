"""Profiles: quick by default, `HYPOTHESIS_PROFILE=long` (make test-property-long) for ≥ 10,000 traces.

The quick one tries the same examples every time, so that a red run is red for the next person too; the long one
explores.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick", max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.register_profile("long", max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
