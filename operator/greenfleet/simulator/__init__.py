"""A discrete-event fleet that drives the very `decide` of the operator, next to the autoscalers it has to be better
than.

It runs without a cluster and without a clock: `python -m greenfleet.simulator --trace burst --autoscaler
greenfleet,keda-default`. Imports `greenfleet.autoscaling` and nothing else of the operator.
"""

from .autoscalers import AUTOSCALERS, Autoscaler, autoscaler_named
from .figures import Figures
from .fleet import Fleet
from .run import Run, simulate
from .traces import Trace, arrivals, load

__all__ = [
    "AUTOSCALERS",
    "Autoscaler",
    "Figures",
    "Fleet",
    "Run",
    "Trace",
    "arrivals",
    "autoscaler_named",
    "load",
    "simulate",
]
