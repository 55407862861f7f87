"""Benches: pairs in one run, ratios before absolute figures, and a last line that is one JSON object."""
