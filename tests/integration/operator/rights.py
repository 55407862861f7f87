"""The operator's identity as the chart gives it: a service account, the roles that helm renders, and a token for it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.integration.operator.harness import REPOSITORY, Api, Namespace, Object, cluster, eventually, program

_PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts/{name}",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/{name}",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings/{name}",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{name}",
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}",
    "ValidatingAdmissionPolicyBinding": (
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/{name}"
    ),
}


@dataclass(frozen=True)
class Identity:
    """Who the operator is, and what it may do."""

    kubeconfig: Path
    """With a token of the service account, and nothing else."""
    user: str
    """As the API server calls it."""
    rules: list[Object]
    """Of all its roles."""

    def rights(self) -> set[tuple[str, str]]:
        """(verb, resource) of every rule."""
        return {(verb, resource) for rule in self.rules for resource in rule["resources"] for verb in rule["verbs"]}


def rendered(release: str, namespace: str, values: Object, directory: Path) -> list[Object]:
    """The chart's objects, those of `helm test` included."""
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    chart = REPOSITORY / "charts" / "greenfleet"
    command = [cluster("program", "helm"), "template", release, str(chart), "--namespace", namespace]
    done = subprocess.run([*command, "--values", str(file)], check=True, capture_output=True, text=True)
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def operators_identity(namespace: Namespace, directory: Path, scope: list[str]) -> Identity:
    """Of the operator's service account, for these namespaces or (none) for all."""
    return _identity(namespace, directory, scope, of_test=False)


def identity_of_the_tester(namespace: Namespace, directory: Path, scope: list[str]) -> Identity:
    """Of the service account under which `helm test` waits."""
    return _identity(namespace, directory, scope, of_test=True)


def _identity(namespace: Namespace, directory: Path, scope: list[str], *, of_test: bool) -> Identity:
    """Applies the chart's service account and roles, and takes a token."""
    release = f"rights-{namespace.name}"
    servers = {
        "default": {"url": "http://127.0.0.1:9"}
    }  # so that there is no bundled Prometheus with a role of its own
    values = {"scope": {"namespaces": scope}, "rbac": {"aggregate": False}, "fullnameOverride": release}
    values["prometheus"] = {"servers": servers}
    objects = [
        one
        for one in rendered(release, namespace.name, values, directory)
        if one["kind"] in _PATHS and ("helm.sh/hook" in one["metadata"].get("annotations", {})) is of_test
    ]
    for one in objects:
        namespace.api.apply(_PATHS[one["kind"]].format(**one["metadata"]), one)
    name = f"{release}-test" if of_test else release
    account = f"/api/v1/namespaces/{namespace.name}/serviceaccounts/{name}"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    token = namespace.api.create(f"{account}/token", request)["status"]["token"]
    bound = {one["roleRef"]["name"] for one in objects if one["kind"].endswith("RoleBinding")}
    roles = [one for one in objects if one["kind"].endswith("Role") and one["metadata"]["name"] in bound]
    rules = [rule for one in roles for rule in one["rules"]]
    user = f"system:serviceaccount:{namespace.name}:{name}"
    kubeconfig = kubeconfig_with(namespace.api, token, directory / f"{name}.kubeconfig")
    if not of_test:
        eventually(
            lambda: _is_bound(kubeconfig, namespace.name), "the policy for the operator's account is in force", 40
        )
    return Identity(kubeconfig, user, rules)


def _is_bound(kubeconfig: Path, namespace: str) -> bool:
    """Whether a write that the roles allow is refused, because it belongs to no pool."""
    command = [program("kubectl"), f"--kubeconfig={kubeconfig}", "-n", namespace, "create", "configmap", "probe"]
    done = subprocess.run([*command, "--dry-run=server"], check=False, capture_output=True, text=True)
    return "ValidatingAdmissionPolicy" in done.stderr


def may(api: Api, user: str, verb: str, resource: str, namespace: str = "") -> bool:
    """Whether the API server would let this user; `resource` as `group/plural` or `group/plural/subresource`."""
    group, plural, *sub = resource.split("/")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": "".join(sub), "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes},
    }
    answer = api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def kubeconfig_with(api: Api, token: str, path: Path) -> Path:
    """The administrator's kubeconfig, with a token in place of the certificate."""
    config = yaml.safe_load(api.kubeconfig.read_text())
    trust = config["clusters"][0]["cluster"]
    if "certificate-authority" in trust:
        trust["certificate-authority"] = str(api.kubeconfig.parent / trust["certificate-authority"])
    config["users"][0]["user"] = {"token": token}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    path.chmod(0o600)
    return path
