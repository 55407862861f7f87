#!/usr/bin/env bash
# The README's two commands on a new kind cluster, with the images of this tree, until a message has brought a worker.
# `make test-kind` calls it. It needs docker, kind, kubectl and helm, and removes its cluster.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in docker kind kubectl helm; do
    if ! command -v "$tool" > /dev/null; then
        echo "error: '$tool' is not there, and the test runs in a kind cluster: install it, or run 'make test', which brings a cluster of its own." >&2
        exit 1
    fi
done
name=greenfleet-readme
KUBECONFIG=$(mktemp)
export KUBECONFIG

leave() {
    local status=$?
    if ((status)); then
        kubectl get pods --all-namespaces --output wide || true
        kubectl describe greenworkerpools || true
        kubectl logs --namespace greenfleet-system --selector app.kubernetes.io/name=greenfleet --tail 50 || true
    fi
    kind delete cluster --name "$name" || true
    rm -f "$KUBECONFIG"
    exit "$status"
}
trap leave EXIT

kind create cluster --name "$name" --wait 2m
TO="kind load docker-image --name $name" demo/images.sh

# What the user has: a broker, its Secret, and an image with a Celery app.
kubectl create deployment redis --image greenfleet/redis:demo --port 6379
kubectl expose deployment redis --port 6379
kubectl create secret generic broker --from-literal=url=redis://redis:6379/0
kubectl rollout status deployment/redis --timeout 2m

helm install greenfleet charts/greenfleet --namespace greenfleet-system --create-namespace
sed -e 's|^  app: .*|  app: feedhub|' -e 's|^  image: .*|  image: greenfleet/feedhub:demo|' examples/minimal.yaml \
    | kubectl apply -f -

kubectl wait --for=condition=Ready greenworkerpool/feeds --timeout=5m
kubectl exec deployment/redis -- redis-cli LPUSH feeds '{}'
kubectl wait --for=jsonpath='{.status.readyReplicas}'=1 greenworkerpool/feeds --timeout=5m
