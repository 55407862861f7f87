"""Certificates and kubeconfigs: who each part of the cluster is.

Kubernetes reads identity from a client certificate: CN is the user, O the group, and RBAC grants by those. So a wrong
subject is not a cosmetic fault; it is a component that may do nothing. OpenSSL's command line makes the certificates,
because Python's standard library cannot.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kubelocal.places import Places
from kubelocal.run import run, write_if_changed
from kubelocal.topology import API_SERVICE_ADDRESS, CLUSTER_DOMAIN, NODE_ADDRESS, Topology

_VALID_DAYS = "3650"

_OPENSSL_CONFIGURATION = """\
[req]
distinguished_name = subject
prompt = no
string_mask = utf8only
[subject]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign, digitalSignature
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = {usage}
{names}
"""


class Authority(StrEnum):
    CLUSTER = "ca"
    ETCD = "etcd-ca"
    FRONT_PROXY = "front-proxy-ca"
    """The aggregation layer trusts the user name in a header if the sender's certificate is from this authority, so it
    must not be the one that signs ordinary clients.
    """


@dataclass(frozen=True)
class Identity:
    file: str
    common_name: str
    organization: str = ""
    authority: Authority = Authority.CLUSTER
    names: tuple[str, ...] = ()
    """Subject alternative names (`DNS:…`, `IP:…`): makes it a server's certificate too."""


@dataclass(frozen=True)
class Pki:
    directory: Path

    def certificate(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    @property
    def service_account_key(self) -> Path:
        return self.directory / "service-account.key"

    @property
    def service_account_public_key(self) -> Path:
        return self.directory / "service-account.pub"


def node_name(topology: Topology) -> str:
    return topology.name


def identities(topology: Topology) -> list[Identity]:
    service_names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
    ]
    api_names = (
        *(f"DNS:{name}" for name in (*service_names, "localhost")),
        *(f"IP:{address}" for address in ("127.0.0.1", API_SERVICE_ADDRESS, NODE_ADDRESS)),
    )
    control_plane = [
        Identity("etcd", "etcd", authority=Authority.ETCD, names=("DNS:localhost", "IP:127.0.0.1")),
        Identity("etcd-client", "kube-apiserver", authority=Authority.ETCD),
        Identity("apiserver", "kube-apiserver", names=api_names),
        Identity("front-proxy-client", "front-proxy-client", authority=Authority.FRONT_PROXY),
        Identity("admin", "greenfleet-admin", "system:masters"),
        Identity("controller-manager", "system:kube-controller-manager"),
    ]
    if not topology.full:
        return control_plane
    node = node_name(topology)
    return [
        *control_plane,
        Identity("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
        Identity("scheduler", "system:kube-scheduler"),
        Identity("kubelet", f"system:node:{node}", "system:nodes"),
        Identity("kubelet-serving", f"system:node:{node}", "system:nodes", names=(f"DNS:{node}", f"IP:{NODE_ADDRESS}")),
        Identity("proxy", "system:kube-proxy"),
        Identity("coredns", "system:coredns"),
    ]


KUBECONFIG_USERS = ("controller-manager", "scheduler", "kubelet", "proxy", "coredns")


def ensure(places: Places, topology: Topology) -> Pki:
    """Make what is missing. An existing certificate stays: changing it would cut off whoever holds it."""
    pki = Pki(places.pki)
    pki.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for authority in Authority:
        _make_authority(pki, authority)
    wanted = identities(topology)
    for identity in wanted:
        ensure_certificate(pki, identity)
    if not pki.service_account_public_key.exists():
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", pki.service_account_key)
        _openssl("pkey", "-in", pki.service_account_key, "-pubout", "-out", pki.service_account_public_key)
    write_if_changed(places.kubeconfig, kubeconfig(pki, topology, "admin"))
    for user in KUBECONFIG_USERS:
        if any(identity.file == user for identity in wanted):
            write_if_changed(places.config / f"{user}.kubeconfig", kubeconfig(pki, topology, user))
    return pki


def _make_authority(pki: Pki, authority: Authority) -> None:
    if pki.certificate(authority).exists():
        return
    _issue(pki, authority, subject=f"/CN=greenfleet {authority}", extensions="authority", signing=())


def ensure_certificate(pki: Pki, identity: Identity) -> None:
    """Make it, unless it is there."""
    if pki.certificate(identity.file).exists():
        return
    organization = f"/O={identity.organization}" if identity.organization else ""
    signer = identity.authority
    _issue(
        pki,
        identity.file,
        subject=f"{organization}/CN={identity.common_name}",
        extensions="leaf",
        signing=("-CA", pki.certificate(signer), "-CAkey", pki.key(signer)),
        names=identity.names,
    )


def _issue(
    pki: Pki, name: str, *, subject: str, extensions: str, signing: tuple[str | Path, ...], names: tuple[str, ...] = ()
) -> None:
    configuration = pki.directory / f"{name}.cnf"
    write_if_changed(
        configuration,
        _OPENSSL_CONFIGURATION.format(
            usage="clientAuth, serverAuth" if names else "clientAuth",
            names=f"subjectAltName = {', '.join(names)}" if names else "",
        ),
    )
    # The certificate is what `ensure` looks for, so it must appear last and whole.
    draft = pki.directory / f"{name}.crt.draft"
    _openssl(
        "req", "-x509", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256",
        "-config", configuration, "-extensions", extensions, "-subj", subject, "-days", _VALID_DAYS, *signing,
        "-keyout", pki.key(name), "-out", draft,
    )  # fmt: skip
    pki.key(name).chmod(0o600)
    draft.rename(pki.certificate(name))
    configuration.unlink()


def _openssl(*arguments: str | Path) -> None:
    run(["openssl", *arguments])


def kubeconfig(pki: Pki, topology: Topology, user: str) -> str:
    """JSON, which is YAML too; self-contained, so that it can be copied anywhere on this machine."""

    def embedded(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    name = f"greenfleet/{topology.name}" if user == "admin" else user
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": topology.name,
                "cluster": {
                    "server": topology.server,
                    "certificate-authority-data": embedded(pki.certificate(Authority.CLUSTER)),
                },
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": embedded(pki.certificate(user)),
                    "client-key-data": embedded(pki.key(user)),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": topology.name, "user": user}}],
        "current-context": name,
    }
    return json.dumps(document, indent=2) + "\n"
