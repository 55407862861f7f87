#!/usr/bin/env bash
# The demo's images for a cluster of your own: built, then brought to it. `make demo-images` calls this; see docs/demo.md.
# ENGINE builds (docker, podman), TO is called with the name of each image, IMAGE_PREFIX is in front of the names.
set -euo pipefail
cd "$(dirname "$0")/.."

engine=${ENGINE:-docker}
to=${TO:-$engine push}
prefix=${IMAGE_PREFIX:-}
if [[ -z $prefix && $to == *" push" ]]; then
    echo "error: IMAGE_PREFIX is empty, and '$to' needs a registry: set IMAGE_PREFIX=registry.example/team/, or load the images," \
        "as with TO='kind load docker-image', TO='minikube image load' or TO='k3d image import'." >&2
    exit 1
fi
prefix=${prefix:-greenfleet/}
prefix=${prefix%/}/
version=$(sed -n 's/^appVersion: "\(.*\)"$/\1/p' charts/greenfleet/Chart.yaml)

"$engine" build --target operator --tag "${prefix}operator:$version" .
"$engine" build --target worker --tag "${prefix}worker:$version" .
"$engine" build --tag "${prefix}feedhub:demo" examples/feedhub
"$engine" pull docker.io/library/redis:7
"$engine" tag docker.io/library/redis:7 "${prefix}redis:demo"
for image in "operator:$version" "worker:$version" feedhub:demo redis:demo; do
    $to "$prefix$image"
done
