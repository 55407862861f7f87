"""Pure functions from a pool to the manifests of its children. Nothing here does I/O."""

from greenfleet.manifests.children import Child, children_of_pool
from greenfleet.manifests.exporter import exporter_children
from greenfleet.manifests.monitor import Monitoring
from greenfleet.manifests.names import Role

__all__ = ["Child", "Monitoring", "Role", "children_of_pool", "exporter_children"]
