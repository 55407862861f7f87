"""A real, single-node Kubernetes on a bare Linux machine: no systemd, no Docker, no registry.

The demo, the end-to-end tests and CI need kubelet, containerd and the API server as they are, not stand-ins. This
package builds them from pinned Go modules, starts them as plain processes, and takes everything away again.

Standard library only, Python 3.11: it runs before any virtual environment exists.

Imports go one way::

    cli -> cluster -> (components, api, images) -> (runtime, network, pki, processes, topology, baseimage, buildah, oci)
        -> (binaries, golang, debian) -> (places, report, run, errors)
"""
