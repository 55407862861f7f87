"""The command line and the configuration file of each component. Builds data; starts nothing.

Two cores carry the cluster and the load that is measured on it, so everything that only costs CPU while idle is turned
down: fsync, profiling, leader election between one, and status updates that nobody waits for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubelocal import runtime
from kubelocal.pki import Authority, Pki, node_name
from kubelocal.places import Places
from kubelocal.processes import Process
from kubelocal.run import write_if_changed
from kubelocal.topology import CLUSTER_DOMAIN, NODE_ADDRESS, POD_CIDR, SERVICE_CIDR, Topology

_MAX_PODS = 250
_LOOPBACK = "127.0.0.1"


class Components:
    def __init__(self, places: Places, topology: Topology, pki: Pki, binaries: Path) -> None:
        self._places = places
        self._topology = topology
        self._ports = topology.ports
        self._pki = pki
        self._binaries = binaries

    def etcd(self) -> Process:
        client = f"https://{_LOOPBACK}:{self._ports.etcd_client}"
        peer = f"http://{_LOOPBACK}:{self._ports.etcd_peer}"
        return self._process(
            "etcd",
            {
                "name": self._topology.name,
                "data-dir": self._places.state / "etcd",
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "listen-peer-urls": peer,
                "initial-advertise-peer-urls": peer,
                "initial-cluster": f"{self._topology.name}={peer}",
                "cert-file": self._pki.certificate("etcd"),
                "key-file": self._pki.key("etcd"),
                "client-cert-auth": True,
                "trusted-ca-file": self._pki.certificate(Authority.ETCD),
                # A crash of the machine may lose data; this cluster is made to be thrown away.
                "unsafe-no-fsync": True,
                "log-level": "warn",
            },
        )

    def api_server(self) -> Process:
        pki = self._pki
        flags: dict[str, Any] = {
            "bind-address": self._topology.api_address,
            "secure-port": self._ports.api,
            # Endpoints must not be loopback addresses. Where there is no node, nothing uses this one.
            "advertise-address": NODE_ADDRESS,
            "etcd-servers": f"https://{_LOOPBACK}:{self._ports.etcd_client}",
            "etcd-cafile": pki.certificate(Authority.ETCD),
            "etcd-certfile": pki.certificate("etcd-client"),
            "etcd-keyfile": pki.key("etcd-client"),
            "service-cluster-ip-range": SERVICE_CIDR,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": True,
            "client-ca-file": pki.certificate(Authority.CLUSTER),
            "tls-cert-file": pki.certificate("apiserver"),
            "tls-private-key-file": pki.key("apiserver"),
            "service-account-issuer": f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
            "service-account-key-file": pki.service_account_public_key,
            "service-account-signing-key-file": pki.service_account_key,
            # The aggregation layer, for APIServices such as KEDA's external metrics.
            "requestheader-client-ca-file": pki.certificate(Authority.FRONT_PROXY),
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-username-headers": "X-Remote-User",
            "proxy-client-cert-file": pki.certificate("front-proxy-client"),
            "proxy-client-key-file": pki.key("front-proxy-client"),
            # To the endpoints instead of the Service's address, so that it works without kube-proxy too.
            "enable-aggregator-routing": True,
            "profiling": False,
        }
        configuration: tuple[Path, ...] = ()
        if self._topology.full:
            configuration = (self._audit_policy(),)
            flags |= {
                # Who wrote what: the benches count the writes of each autoscaler.
                "audit-policy-file": configuration[0],
                "audit-log-path": self._places.logs / "audit.log",
                "audit-log-maxsize": 50,
                "audit-log-maxbackup": 1,
                "kubelet-certificate-authority": pki.certificate(Authority.CLUSTER),
                "kubelet-client-certificate": pki.certificate("apiserver-kubelet-client"),
                "kubelet-client-key": pki.key("apiserver-kubelet-client"),
                "kubelet-preferred-address-types": "InternalIP",
            }
        else:
            flags["endpoint-reconciler-type"] = "none"
        # Memory for CPU: its heap may grow to three times what lives, in place of twice.
        return self._process("kube-apiserver", flags, configuration=configuration, environment={"GOGC": "200"})

    def _audit_policy(self) -> Path:
        path = self._places.config / "audit-policy.json"
        writes = ["create", "update", "patch", "delete", "deletecollection"]
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "verbs": writes}, {"level": "None"}],
        }
        write_if_changed(path, json.dumps(policy, indent=2) + "\n")
        return path

    def controller_manager(self) -> Process:
        authority = Authority.CLUSTER
        # Without nodes, tests bind pods to nodes that do not exist, and these would delete them.
        controllers = "*" if self._topology.full else "*,-pod-garbage-collector-controller,-taint-eviction-controller"
        return self._process(
            "kube-controller-manager",
            {
                **self._client("controller-manager", port=self._ports.controller_manager),
                "controllers": controllers,
                "use-service-account-credentials": True,
                "service-account-private-key-file": self._pki.service_account_key,
                "root-ca-file": self._pki.certificate(authority),
                "cluster-signing-cert-file": self._pki.certificate(authority),
                "cluster-signing-key-file": self._pki.key(authority),
                "cluster-name": self._topology.name,
                "leader-elect": False,
                "profiling": False,
                # At the default of 20 its own throttle makes up most of its start, and of a burst of pods.
                "kube-api-qps": 300,
                "kube-api-burst": 600,
                "concurrent-gc-syncs": 5,
            },
        )

    def scheduler(self) -> Process:
        return self._process(
            "kube-scheduler",
            {
                **self._client("scheduler", port=self._ports.scheduler),
                "kube-api-qps": 300,
                "kube-api-burst": 600,
                "leader-elect": False,
                "profiling": False,
            },
        )

    def containerd(self) -> Process:
        configuration = runtime.ensure_configuration(self._places)
        return Process(
            "containerd", ("containerd", "--config", str(configuration), "--log-level", "warn"), (configuration,)
        )

    def kubelet(self) -> Process:
        resolver = self._places.config / "resolv.conf"
        write_if_changed(resolver, f"nameserver {NODE_ADDRESS}\n", mode=0o644)
        configuration = self._places.config / "kubelet.json"
        document = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "healthzBindAddress": _LOOPBACK,
            "healthzPort": self._ports.kubelet_health,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._pki.certificate(Authority.CLUSTER))},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(self._pki.certificate("kubelet-serving")),
            "tlsPrivateKeyFile": str(self._pki.key("kubelet-serving")),
            "containerRuntimeEndpoint": f"unix://{self._places.containerd_socket}",
            "clusterDNS": [NODE_ADDRESS],
            "clusterDomain": CLUSTER_DOMAIN,
            "resolvConf": str(resolver),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": runtime.cgroup(self._places),
            "failCgroupV1": False,
            "failSwapOn": False,
            # Lowering it takes CAP_SYS_RESOURCE.
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": False,
            "maxPods": _MAX_PODS,
            "podLogsDir": str(self._places.logs / "pods"),
            "serializeImagePulls": False,
            # Images cannot be pulled again, and how full the machine's disk is is not the cluster's business.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "nodeStatusUpdateFrequency": "30s",
            "nodeStatusReportFrequency": "5m",
            "nodeLeaseDurationSeconds": 120,
            # A rolling update or a burst of workers must not wait for the client's own throttle.
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
            "enableProfilingHandler": False,
        }
        write_if_changed(configuration, json.dumps(document, indent=2) + "\n")
        return self._process(
            "kubelet",
            {
                "config": configuration,
                "kubeconfig": self._kubeconfig("kubelet"),
                "root-dir": self._places.kubelet_root,
                "cert-dir": self._places.kubelet_root / "pki",
                "hostname-override": node_name(self._topology),
                "node-ip": NODE_ADDRESS,
            },
            configuration=(configuration,),
        )

    def proxy(self) -> Process:
        configuration = self._places.config / "kube-proxy.json"
        document = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self._kubeconfig("proxy"))},
            "hostnameOverride": node_name(self._topology),
            "mode": "nftables",
            # The default of 1 s is meant for thousands of Services; here it would only delay every test.
            "nftables": {"minSyncPeriod": "100ms"},
            "clusterCIDR": POD_CIDR,
            "bindAddress": NODE_ADDRESS,
            "healthzBindAddress": f"{_LOOPBACK}:{self._ports.proxy_health}",
            "metricsBindAddress": f"{_LOOPBACK}:{self._ports.proxy_metrics}",
            "oomScoreAdj": 0,
            # 0 leaves the machine's own settings alone, which may be read-only.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        write_if_changed(configuration, json.dumps(document, indent=2) + "\n")
        return self._process("kube-proxy", {"config": configuration}, configuration=(configuration,))

    def dns(self) -> Process:
        corefile = self._places.config / "Corefile"
        write_if_changed(corefile, self._corefile(), mode=0o644)
        return Process("coredns", (str(self._binaries / "coredns"), "-conf", str(corefile)), (corefile,))

    def _corefile(self) -> str:
        # Names outside of the cluster do not exist: nothing that runs in it leaves this machine.
        return f"""\
{CLUSTER_DOMAIN}:53 in-addr.arpa:53 {{
    bind {NODE_ADDRESS}
    health {_LOOPBACK}:{self._ports.dns_health}
    ready {_LOOPBACK}:{self._ports.dns_ready}
    errors
    cache 5
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {self._kubeconfig("coredns")}
        ttl 5
    }}
}}
.:53 {{
    bind {NODE_ADDRESS}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""

    def _client(self, user: str, *, port: int) -> dict[str, Any]:
        kubeconfig = self._kubeconfig(user)
        return {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": _LOOPBACK,
            "secure-port": port,
        }

    def _kubeconfig(self, user: str) -> Path:
        return self._places.config / f"{user}.kubeconfig"

    def _process(
        self,
        name: str,
        flags: dict[str, Any],
        *,
        configuration: tuple[Path, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        def text(value: Any) -> str:
            return str(value).lower() if isinstance(value, bool) else str(value)

        arguments = (f"--{flag}={text(value)}" for flag, value in flags.items())
        return Process(name, (str(self._binaries / name), *arguments), configuration, environment or {})
