"""Who owns which fields: three field managers, so that scaling, building and reporting never undo each other."""

RECONCILER = "greenfleet-reconciler"
"""The children as the spec says them."""
AUTOSCALER = "greenfleet-autoscaler"
"""Replicas of the Deployments, and the ConfigMap's start value."""
STATUS = "greenfleet-status"
"""The status of pools."""
