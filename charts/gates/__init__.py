"""What `make check` asks of the charts: helm's lint, the schemas of three Kubernetes versions, and checkov.

Everything that a chart renders with each of the value files in `tests/unit/charts/values` goes through all of it, and
so do the resources that the operator itself renders (the golden files). Nothing here talks to a cluster.
"""
