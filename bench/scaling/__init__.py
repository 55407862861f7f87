"""Autoscalers side by side on a real cluster: Greenfleet, and KEDA with the HPA. `python -m bench.scaling
--help`.
"""
