"""Pure functions from a pool to the manifests of its children. Nothing here does I/O."""

from greenfleet.resources.children import Child, children_of_pool
from greenfleet.resources.exporter import exporter_children
from greenfleet.resources.monitor import Monitoring
from greenfleet.resources.names import Role

__all__ = ["Child", "Monitoring", "Role", "children_of_pool", "exporter_children"]
