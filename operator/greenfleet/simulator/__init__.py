"""A discrete-event fleet that drives the very `decide` of the operator, next to the laws it has to be better than.

It runs without a cluster and without a clock: `python -m greenfleet.simulator --trace burst --law
greenfleet,keda-default`. Imports `greenfleet.autoscaling` and nothing else of the operator.
"""

from .figures import Figures
from .fleet import Fleet
from .laws import LAWS, Law, law_named
from .run import Run, simulate
from .traces import Trace, arrivals, load

__all__ = ["LAWS", "Figures", "Fleet", "Law", "Run", "Trace", "arrivals", "law_named", "load", "simulate"]
