"""What is made of what was seen, for people: failures of pods, errors of a spec, waits, auto-routing, pinned templates.
Pure: no I/O.

The conditions themselves are computed in `controller.status_builder`, because they read the state of every owner.
"""
