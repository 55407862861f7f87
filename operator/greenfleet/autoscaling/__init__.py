"""The autoscaler: pure, immutable values in, one immutable decision out. It imports nothing that does I/O.

What goes in and comes out is in `model`.
"""

from .autoscaler import decide
from .state import State, initial_state
from .tuning import DEFAULT, PARTS, Tuning

__all__ = ["DEFAULT", "PARTS", "State", "Tuning", "decide", "initial_state"]
