"""`greenfleet` and `kubectl greenfleet`: run the operator, print the CRD, ask why."""
