"""The resource `GreenWorkerPool`: typed models, and the CustomResourceDefinition made from them."""

from greenfleet.api.pool import GreenWorkerPool, PoolSpec, parse_pool
from greenfleet.api.values import duration_seconds, quantity

GROUP = "greenfleet.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "GreenWorkerPool"
PLURAL = "greenworkerpools"

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "GreenWorkerPool",
    "PoolSpec",
    "duration_seconds",
    "parse_pool",
    "quantity",
]
