"""A directory for PYTHONPATH: Python imports `sitecustomize` from it before anything of the image. See
`greenworker.bootstrap.patching`.
"""
