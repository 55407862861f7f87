"""Prometheus, both ways: the samples that decisions are made from, and the operator's own metrics."""
