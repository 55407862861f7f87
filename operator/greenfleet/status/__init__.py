"""What is made of what was seen, for people: conditions, failures of pods, errors of a spec, waits, auto-routing and
pinned templates. Pure: no I/O.

`controller.status_builder` puts the status together, because that needs the state of every owner.
"""
