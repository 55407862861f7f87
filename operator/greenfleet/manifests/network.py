"""NetworkPolicies: what the user allows the workers, and with them the exporter of their broker, to connect to.

DNS is always allowed, because nothing works without it; and anybody may scrape the metrics port, which also answers
kubelet's probes. A network plugin has to enforce all this: where none does, the objects are there and change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from greenfleet.api import GreenWorkerPool
from greenfleet.api.network import EgressRule
from greenfleet.manifests import names
from greenfleet.manifests.pods import Manifest, sparse

_DNS: Manifest = {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}
_SCRAPE: Manifest = {"ports": [{"protocol": "TCP", "port": names.METRICS_PORT}]}


def pool_network_policy(pool: GreenWorkerPool) -> Manifest | None:
    """The policy for all pods of one pool, None where the user wants none."""
    if pool.spec.network is None:
        return None
    return _policy(
        names.config_name(pool.name),
        pool.namespace,
        names.pool_labels(pool.name),
        {names.POOL_LABEL: pool.name},
        pool.spec.network.egress,
    )


def exporter_network_policy(pools: Sequence[GreenWorkerPool], name: str) -> Manifest | None:
    """The policy for the exporter that `pools` share: what any of them allows, because each of them allows the
    broker.
    """
    networks = [
        pool.spec.network for pool in sorted(pools, key=lambda pool: pool.name) if pool.spec.network is not None
    ]
    if not networks:
        return None
    rules: list[EgressRule] = []
    for network in networks:
        rules += [rule for rule in network.egress if rule not in rules]
    return _policy(name, pools[0].namespace, names.exporter_labels(name), names.exporter_selector(name), rules)


def _policy(
    name: str, namespace: str, labels: dict[str, str], selector: dict[str, str], egress: Sequence[EgressRule]
) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "podSelector": {"matchLabels": selector},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [_SCRAPE],
            "egress": [_DNS, *(_rule(rule) for rule in egress)],
        },
    }


def _rule(rule: EgressRule) -> Manifest:
    found: Manifest = {}
    if rule.to:
        found["to"] = [sparse(peer) for peer in rule.to]
    if rule.ports:
        found["ports"] = [{"protocol": port.protocol, **sparse(port)} for port in rule.ports]
    return found
