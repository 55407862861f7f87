"""What is wrong with pods, from their own status, as a sentence for the person who has to act."""

from __future__ import annotations

import json
from typing import Any

import pytest

from greenfleet.controller.cluster_cache import pod_outline
from greenfleet.manifests.names import Role
from greenfleet.manifests.worker import fleet_deployment
from greenfleet.redaction import redacted
from greenfleet.status.diagnosis import GRACE_SECONDS, NOT_BEGUN_SECONDS, capacity_shortage, nothing_runs, pod_failure
from greenfleet.status.times import rfc3339
from tests.unit.operator.objects import Object, crashed, pool, running_again, waiting

SECRET = "hunter2"

URLS_WITH_PASSWORDS = [
    f"redis://:{SECRET}@redis:6379/0",
    f"redis://user:{SECRET}@redis:6379/0",
    f"rediss://user:{SECRET}@redis/0?ssl_cert_reqs=required",
    f"amqp://user:{SECRET}@rabbit//",
    f"amqps://user:{SECRET}@rabbit/%2F",
    f"sentinel://:{SECRET}@s1:26379;sentinel://:{SECRET}@s2:26379",
    f"redis+socket://:{SECRET}@/var/run/redis.sock",
    f"redis://:p@ss-{SECRET}@redis/0",
    f"redis://:a/{SECRET}@redis/0",
    f"redis://:a'{SECRET}\"b@redis/0",
    f"redis://:#{SECRET}@redis/0",
    f"REDIS://:{SECRET}@redis/0",
]


@pytest.mark.parametrize("url", URLS_WITH_PASSWORDS)
@pytest.mark.parametrize("form", ["{}", "cannot connect to {}: refused", "'{}'", '{{"url": "{}"}}', "x={}\nnext line"])
def test_a_password_in_a_url_is_never_shown(url: str, form: str) -> None:
    shown = redacted(form.format(url))
    assert SECRET not in shown
    assert "***@" in shown


@pytest.mark.parametrize("text", ["", "plain", "redis://redis:6379/0", "mail me@example.com", "http://x/y and a@b"])
def test_what_has_no_password_keeps_its_words(text: str) -> None:
    assert redacted(text).split("://")[0] == text.split("://", maxsplit=1)[0]
    if "@" not in text:
        assert redacted(text) == text


def test_nothing_is_wrong_with_pods_that_start_run_or_leave() -> None:
    creating = waiting("ContainerCreating")
    leaving = {**crashed(), "metadata": {"name": "x", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert pod_failure([], NOW) is None
    assert pod_failure([{"metadata": {"name": "new"}}, creating, leaving], NOW) is None


def test_a_missing_secret_is_named_with_the_field_and_the_fix() -> None:
    found = pod_failure([waiting("CreateContainerConfigError", 'secret "broker" not found')], NOW)
    assert found is not None
    assert found.reason == "ReferenceMissing"
    assert "broker, resultBackend or worker.env" in found.message
    assert "'broker'" in found.message
    assert "create it" in found.message


def test_a_missing_config_map_is_blamed_on_the_workers_environment() -> None:
    found = pod_failure([waiting("CreateContainerConfigError", 'configmap "settings" not found')], NOW)
    assert found is not None
    assert found.message.startswith("worker.env or worker.envFrom is 'settings'")


def test_a_missing_key_is_named() -> None:
    found = pod_failure([waiting("CreateContainerConfigError", "couldn't find key url in Secret shop/broker")], NOW)
    assert found is not None
    assert "'broker' with key 'url'" in found.message
    assert "add the key" in found.message


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
def test_an_image_that_cannot_be_pulled_is_named(reason: str) -> None:
    found = pod_failure([waiting(reason, "x", image="registry.example/typo:1")], NOW)
    assert found is not None
    assert found.reason == "ImageUnavailable"
    assert "spec.image is 'registry.example/typo:1'" in found.message


def test_our_own_image_is_blamed_on_the_operators_configuration() -> None:
    for container in ("queues", "greenfleet-agent"):
        found = pod_failure([waiting("ErrImagePull", container=container)], NOW)
        assert found is not None
        assert found.message.startswith("the operator's worker.image")
        for part in ("administrator", "worker.imagePullSecrets", "workerImage.pullSecrets"):
            assert part in found.message


def test_the_image_of_a_container_that_a_patch_adds_is_blamed_on_the_patch() -> None:
    found = pod_failure([waiting("ErrImagePull", container="proxy", image="proxy:1")], NOW)
    assert found is not None
    assert found.message.startswith("worker.podTemplatePatch, container proxy, image is 'proxy:1'")


def test_the_end_of_a_container_that_a_patch_adds_is_blamed_on_the_patch() -> None:
    found = pod_failure([crashed(message="boom", container="proxy")], NOW)
    assert found is not None
    assert found.message.startswith("worker.podTemplatePatch, container proxy, image: the container ends with status 1")


OF_A_POD = '(pod: "feeds-abc_shop(5b1)", container: worker)'


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (
            "container has runAsNonRoot and image has non-numeric user (appuser), cannot verify user is non-root "
            + OF_A_POD,
            ["worker.securityContext.runAsUser is Image", "'appuser'", "proj:1.4", "number", "USER"],
        ),
        (
            f"container has runAsNonRoot and image will run as root {OF_A_POD}",
            ["worker.securityContext.runAsUser is Image", "root", "proj:1.4", "number", "USER"],
        ),
        (
            f"container's runAsUser breaks non-root policy {OF_A_POD}",
            ["worker.podTemplatePatch", "runAsUser", "root", "another user"],
        ),
    ],
)
def test_a_user_that_kubelet_takes_for_root_is_said_with_the_field_and_the_fix(message: str, parts: list[str]) -> None:
    found = pod_failure([waiting("CreateContainerConfigError", message)], NOW)
    assert found is not None
    assert found.reason == "WorkerMisconfigured"
    for part in parts:
        assert part in found.message
    assert "feeds-abc" not in found.message


@pytest.mark.parametrize(
    "words",
    [
        # k8s.io/kubernetes pkg/kubelet/kubelet_pods.go, kubelet_getters.go and util/manager/watch_based_manager.go
        'failed to prepare subPath for volumeMount "data" of container "worker"',
        "failed to sync secret cache: timed out waiting for the condition",
        "services have not yet been read at least once, cannot construct envvars",
        'environment variable key "URL" not found in file "/var/lib/kubelet/env"',
    ],
)
@pytest.mark.parametrize(
    ("container", "field"),
    [
        ("worker", "worker"),
        ("queues", "the queue exporter"),
        ("greenfleet-agent", "the init container greenfleet-agent"),
        ("proxy", "worker.podTemplatePatch, container proxy"),
    ],
)
def test_what_kubelet_cannot_configure_for_a_reason_that_nobody_knows_is_said_in_its_own_words(
    words: str, container: str, field: str
) -> None:
    found = pod_failure([waiting("CreateContainerConfigError", words, container=container)], NOW)
    assert found is not None
    assert found.reason == "ContainerFails"
    assert found.message.startswith(field)
    assert words in found.message
    assert "correct the reference" not in found.message
    assert "what these words name" in found.message
    assert "kubelet tries again" in found.message


def test_the_four_parts_that_the_worker_says_before_it_dies_are_shown() -> None:
    said = {"field": "image", "value": "no module eventlet", "reason": "green threads need it", "fix": "add eventlet"}
    found = pod_failure([crashed(message=f"some log line\n{json.dumps(said)}\n", exit_code=78)], NOW)
    assert found is not None
    assert found.reason == "WorkerMisconfigured"
    assert found.message == "image is 'no module eventlet': green threads need it: add eventlet"


def test_a_broker_url_in_what_the_worker_says_is_redacted() -> None:
    said = {"field": "broker", "value": URLS_WITH_PASSWORDS[0], "reason": f"no {URLS_WITH_PASSWORDS[1]}", "fix": "x"}
    for message in (json.dumps(said), f"Traceback\nConnectionError: {URLS_WITH_PASSWORDS[0]}"):
        found = pod_failure([crashed(message=message)], NOW)
        assert found is not None
        assert SECRET not in found.message


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "RunContainerError", "CreateContainerError"])
def test_a_broker_url_in_kubelets_words_is_redacted(reason: str) -> None:
    found = pod_failure([waiting(reason, f"cannot use {URLS_WITH_PASSWORDS[0]}")], NOW)
    assert found is not None
    assert SECRET not in found.message


@pytest.mark.parametrize(
    "message", ["{}", "[]", '"text"', '{"field": 1}', "{broken", "null", "\n\n", "\x00", "{" * 5000]
)
def test_a_termination_message_that_is_not_ours_is_shown_as_it_is(message: str) -> None:
    found = pod_failure([crashed(message=message)], NOW)
    assert found is not None
    assert found.reason == "ContainerFails"


def out_of_memory(container: str, limit: str | None, *, role: str = "eventlet", init: bool = False) -> Object:
    """A pod of which a container was killed for memory, with its limit."""
    pod = crashed(reason="OOMKilled", exit_code=137, container=container)
    resources = {} if limit is None else {"limits": {"memory": limit}}
    kinds = ("initContainers", "initContainerStatuses") if init else ("containers", "containerStatuses")
    pod["metadata"]["labels"] = {"greenfleet.io/role": role}
    pod["spec"] = {kinds[0]: [{"name": container, "resources": resources}]}
    pod["status"] = {kinds[1]: pod["status"]["containerStatuses"]}
    return pod_outline(pod)  # all that the operator remembers of a pod


@pytest.mark.parametrize(
    ("pod", "parts"),
    [
        (
            out_of_memory("worker", "256Mi"),
            ["worker.resources.limits.memory is '256Mi'", "killed", "raise it, or lower greenThreads.max"],
        ),
        (
            out_of_memory("worker", None),
            ["worker.resources.limits.memory is not set", "its node ran out of memory", "set it"],
        ),
        (
            out_of_memory("worker", "1Gi", role="prefork"),
            ["prefork.resources.limits.memory is '1Gi'", "raise it, or lower prefork.processes"],
        ),
        (
            out_of_memory("queues", "192Mi", role="exporter"),
            ["exporter.resources.limits.memory is '192Mi'", "queue exporter", "raise it"],
        ),
        (
            out_of_memory("proxy", "16Mi"),
            ["worker.podTemplatePatch, container proxy, resources.limits.memory is '16Mi'", "raise it"],
        ),
        (
            out_of_memory("greenfleet-agent", "24Mi", init=True),
            [
                "the init container greenfleet-agent has the memory limit '24Mi'",
                "no more than worker.resources.limits.memory",
                "raise worker.resources.limits.memory to 128Mi or more",
            ],
        ),
        (
            out_of_memory("greenfleet-agent", "24Mi", role="prefork", init=True),
            ["no more than prefork.resources.limits.memory", "raise prefork.resources.limits.memory to 128Mi or more"],
        ),
        (
            out_of_memory("greenfleet-agent", "128Mi", init=True),
            ["greenfleet-agent has the memory limit '128Mi'", "the operator's worker.image", "agent: Installed"],
        ),
        (
            out_of_memory("greenfleet-agent", "1e8", init=True),  # as a webhook may write it
            ["greenfleet-agent has the memory limit '1e8'", "the operator's worker.image", "agent: Installed"],
        ),
    ],
)
def test_too_little_memory_is_said_with_the_limit_of_the_container_that_was_killed(
    pod: Object, parts: list[str]
) -> None:
    found = pod_failure([pod], NOW)
    assert found is not None
    assert found.reason == "OutOfMemory"
    for part in parts:
        assert part in found.message
    if "greenfleet-agent" in parts[0]:
        assert "greenThreads" not in found.message


def test_too_little_memory_is_said_of_a_pod_that_does_not_show_its_spec() -> None:
    found = pod_failure([crashed(reason="OOMKilled", exit_code=137)], NOW)
    assert found is not None
    assert found.reason == "OutOfMemory"
    assert "worker.resources.limits.memory" in found.message


def test_the_agents_limit_is_what_the_diagnosis_takes_it_for() -> None:
    for workers, raised in (("24Mi", True), ("100Mi", True), ("128Mi", False), ("4Gi", False)):
        made = fleet_deployment(pool(worker={"resources": {"limits": {"memory": workers}}}), Role.EVENTLET, "agent", "")
        agent = made["spec"]["template"]["spec"]["initContainers"][0]
        limit = agent["resources"]["limits"]["memory"]
        found = pod_failure([out_of_memory(agent["name"], limit, init=True)], NOW)
        assert found is not None
        assert ("raise worker.resources.limits.memory" in found.message) == raised


NOW = 1_800_000_000.0


def unscheduled(name: str, seconds: float, **metadata: Any) -> Object:
    """A pod that has waited for a node for so many seconds."""
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient cpu.",
        "lastTransitionTime": rfc3339(NOW - seconds),
    }
    return {"metadata": {"name": name, **metadata}, "spec": {}, "status": {"conditions": [condition]}}


def without_sandbox(seconds: float, *, name: str = "feeds-abc", state: Object | None = None, **labels: str) -> Object:
    """A pod that has a node, and whose containers nobody could begin for so many seconds: what kubelet 1.36 says of one
    with `FailedCreatePodSandBox`.
    """
    statuses = [{"name": "worker", "image": "proj:1.4", "state": state or {"waiting": {"reason": "PodInitializing"}}}]
    conditions = [
        {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": rfc3339(NOW - seconds)},
        {"type": "Initialized", "status": "False", "lastTransitionTime": rfc3339(NOW - seconds)},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": rfc3339(NOW - seconds)},
    ]
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Pending", "conditions": conditions, "containerStatuses": statuses},
    }


ROLES: dict[str, Object] = {
    "worker": {"greenfleet.io/pool": "feeds", "greenfleet.io/role": "eventlet"},
    "exporter": {"app.kubernetes.io/instance": "greenfleet-queues-1a", "greenfleet.io/role": "exporter"},
}


@pytest.mark.parametrize("role", ROLES)
def test_a_pod_that_kubelet_cannot_begin_is_said_with_where_its_own_words_are(role: str) -> None:
    found = pod_failure([without_sandbox(NOT_BEGUN_SECONDS + 1, **ROLES[role])], NOW)
    assert found is not None
    assert found.reason == "PodNotStarted"
    for part in ("has not started for more than 2 minutes", "volumes", "container runtime", "kubectl describe pods -l"):
        assert part in found.message
    assert ",".join(f"{name}={value}" for name, value in ROLES[role].items()) in found.message
    assert "feeds-abc" not in found.message
    assert found == pod_failure([without_sandbox(9999, name="feeds-other", **ROLES[role])], NOW)


def test_a_pod_that_may_yet_start_is_not_called_stuck() -> None:
    begun = without_sandbox(NOT_BEGUN_SECONDS + 1)
    begun["status"]["conditions"][0]["status"] = "True"  # an image is pulled
    restarted = without_sandbox(9999)
    restarted["status"]["conditions"][0]["lastTransitionTime"] = rfc3339(NOW - 5)  # its node was restarted
    ended = without_sandbox(9999)
    ended["status"]["phase"] = "Succeeded"
    nowhere = without_sandbox(9999)
    nowhere["spec"]["nodeName"] = None
    for pod in (without_sandbox(NOT_BEGUN_SECONDS - 1), begun, restarted, ended, nowhere):
        assert pod_failure([pod], NOW) is None


def test_what_a_container_says_comes_before_that_a_pod_has_not_started() -> None:
    slow = without_sandbox(9999, name="feeds-aaa")
    found = pod_failure([slow, waiting("ErrImagePull")], NOW)
    assert found is not None
    assert found.reason == "ImageUnavailable"


AT_WORK: Object = {"metadata": {"name": "works"}, "spec": {"nodeName": "n1"}}


@pytest.mark.parametrize(
    ("others", "seconds", "stalled"),
    [
        ([], GRACE_SECONDS + 1, True),
        ([], GRACE_SECONDS - 1, False),
        ([AT_WORK], GRACE_SECONDS + 1, False),
    ],
    ids=["none works", "a node may come", "one works"],
)
def test_pods_that_no_node_can_take_are_a_stall_only_if_none_works(
    others: list[Object], seconds: float, stalled: bool
) -> None:
    pods = [unscheduled("a", seconds), unscheduled("b", 1), *others]
    found = capacity_shortage({}, pods)
    assert found is not None
    assert found.cause.reason == "WorkersUnschedulable"
    for part in ("worker.resources", "2 pods wait", "3 Insufficient cpu", "ask for less, or add a node"):
        assert part in found.cause.message
    assert nothing_runs(found, pods, NOW) == (found.cause if stalled else None)


@pytest.mark.parametrize(
    ("role", "reason", "field"),
    [
        ("eventlet", "WorkersUnschedulable", "worker.resources"),
        ("prefork", "WorkersUnschedulable", "prefork.resources"),
        ("exporter", "ExporterUnschedulable", "the queue exporter"),
    ],
)
def test_what_no_node_can_take_is_named_by_what_decides_where_it_fits(role: str, reason: str, field: str) -> None:
    found = capacity_shortage({}, [unscheduled("a", 1, labels={"greenfleet.io/role": role})])
    assert found is not None
    assert found.cause.reason == reason
    assert found.cause.message.startswith(field)


def test_a_pod_that_leaves_waits_for_no_node() -> None:
    assert capacity_shortage({}, [unscheduled("x", 5, deletionTimestamp="2026-01-01T00:00:00Z")]) is None


def named(pod: Object, name: str = "feeds-other") -> Object:
    """The same pod under another name."""
    return {**pod, "metadata": {"name": name}}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (
            waiting("RunContainerError", "back-off 10s restarting failed container=worker pod=feeds-a_shop(1)"),
            waiting("RunContainerError", "back-off 5m0s restarting failed container=worker pod=feeds-b_shop(2)"),
        ),
        (crashed(message="boom"), {**crashed(message="boom"), "metadata": {"name": "feeds-other"}}),
        *(
            (waiting(reason, words), named(waiting(reason, words.replace("feeds-abc", "feeds-other"))))
            for reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
            for words in (
                "mkdir /var/log/pods/shop_feeds-abc_0b6f/worker: no space left on device",
                'hostname for pod "feeds-abc" was invalid',
                'failed to reserve container name "worker_feeds-abc_shop_0b6f_0"',
            )
        ),
    ],
)
def test_the_words_do_not_change_from_pod_to_pod_or_from_minute_to_minute(one: Any, two: Any) -> None:
    assert pod_failure([one], NOW) == pod_failure([two], NOW)


def test_a_long_message_is_cut() -> None:
    found = pod_failure([crashed(message="x" * 100_000)], NOW)
    assert found is not None
    assert len(found.message) < 1000


def fleet_without_pods(message: str, role: Role = Role.EVENTLET, **pod: Any) -> Object:
    """A Deployment whose ReplicaSet may not make pods."""
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    status = {"conditions": [{"type": "Progressing", "status": "True"}, condition]}
    labels = {"greenfleet.io/role": str(role)}
    return {"metadata": {"labels": labels}, "spec": {"template": {"spec": pod}}, "status": status}


@pytest.mark.parametrize(
    ("message", "pod", "parts"),
    [
        (
            'pods "feeds-eventlet-5d9-" is forbidden: error looking up service account shop/crawler: '
            'serviceaccount "crawler" not found',
            {"serviceAccountName": "crawler"},
            ["worker.serviceAccountName is 'crawler'", "no such ServiceAccount", "create it"],
        ),
        (
            'pods "feeds-eventlet-5d9-" is forbidden: no PriorityClass with name urgent was found',
            {"priorityClassName": "urgent"},
            ["worker.priorityClassName is 'urgent'", "no such PriorityClass", "correct the name"],
        ),
        (
            'pods "feeds-5d9-" is forbidden: exceeded quota: small, requested: pods=1, used: pods=7, limited: pods=7',
            {},
            ["quota", "requested: pods=1", "limited: pods=7", "replicas.max"],
        ),
        (
            'pods "feeds-5d9-" is forbidden: failed quota: team: must specify limits.cpu for: worker',
            {},
            ["quota", "limits.cpu for: worker", "set them in worker.resources", "worker.startupBoost.cpu: 0"],
        ),
        ('admission webhook "images.example" denied the request: not signed', {}, ["not signed", "correct the spec"]),
    ],
)
def test_pods_that_nobody_may_make_are_said_in_four_parts(message: str, pod: Any, parts: list[str]) -> None:
    said = nothing_runs(capacity_shortage(fleet_without_pods(message, **pod), []), [], NOW)
    assert said is not None
    assert said.reason == "PodsRefused"
    for part in parts:
        assert part in said.message
    for moving in ("5d9", "used: "):  # a text that moves makes a condition that moves
        assert moving not in said.message


@pytest.mark.parametrize(
    ("role", "priority", "less", "named"),
    [
        (
            Role.PREFORK,
            "prefork.priorityClassName, or else worker.priorityClassName, is 'urgent'",
            "ask for less in prefork.resources, lower prefork.replicas.max, or raise the quota",
            "prefork: the namespace refuses",
        ),
        (
            Role.EXPORTER,
            "exporter.priorityClassName, or else worker.priorityClassName, is 'urgent'",
            "ask for less in exporter.resources or worker.resources, lower replicas.max, or raise the quota",
            "the queue exporter: the namespace refuses",
        ),
    ],
)
def test_a_refusal_of_another_pod_names_the_fields_of_that_pod(
    role: Role, priority: str, less: str, named: str
) -> None:
    def said(message: str, **pod: Any) -> str:
        found = capacity_shortage(fleet_without_pods(message, role, **pod), [])
        assert found is not None
        return found.cause.message

    assert said("no PriorityClass with name urgent was found", priorityClassName="urgent").startswith(priority)
    assert said("exceeded quota: small").endswith(less)
    assert said("failed quota: team: must specify limits.cpu").endswith(f"in {role}.resources")
    assert said("not signed").startswith(named)
    account = said("error looking up service account shop/default")
    assert ("correct the name" in account) == (role is Role.PREFORK)


def test_a_fleet_that_works_is_not_stalled_by_a_quota_that_keeps_it_small_and_says_what_does() -> None:
    found = capacity_shortage(fleet_without_pods("exceeded quota: small"), [AT_WORK])
    assert found is not None
    assert "exceeded quota: small" in found.cause.message
    assert nothing_runs(found, [AT_WORK], NOW) is None


def test_no_deployment_and_one_without_a_status_lack_nothing() -> None:
    assert capacity_shortage(None, []) is None
    assert capacity_shortage({"spec": {}, "status": {}}, []) is None


@pytest.mark.parametrize("message", ["[" * 4_000, '{"a":' * 800, "1" * 4_000, '"\\ud800"', "null", "NaN"])
def test_last_words_that_are_made_to_confuse_are_shown_as_text(message: str) -> None:
    found = pod_failure([crashed(message=message)], NOW)
    assert found is not None
    assert found.reason == "ContainerFails"


OWN_WORDS = json.dumps({"field": "app", "value": "proj", "reason": "no module named proj", "fix": "correct spec.app"})


def test_a_worker_that_says_what_to_repair_is_no_better_while_it_tries_again() -> None:
    """Otherwise the condition changes at each restart, and an alert or `kubectl wait` with it."""
    before, again = pod_failure([crashed(message=OWN_WORDS)], NOW), pod_failure([running_again(message=OWN_WORDS)], NOW)
    assert before is not None
    assert again == before


def test_a_worker_that_failed_twice_is_no_better_until_it_is_ready() -> None:
    found = pod_failure([running_again(restarts=2, message="Traceback")], NOW)
    assert found is not None
    assert found.reason == "ContainerFails"


@pytest.mark.parametrize(
    "pod",
    [
        running_again(restarts=1, message="killed"),
        running_again(restarts=9, ready=True, message=OWN_WORDS),
        running_again(restarts=9, exit_code=0),
    ],
    ids=["one accident", "ready again", "recycled"],
)
def test_a_worker_that_starts_again_after_an_accident_a_repair_or_its_age_needs_nobody(pod: Object) -> None:
    assert pod_failure([pod], NOW) is None


RUNC = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "


@pytest.mark.parametrize(
    ("message", "field", "says", "fix"),
    [
        (f'{RUNC}exec: "/entrypoint.sh": stat /entrypoint.sh: no such file or directory: unknown',
         "worker.wrapper is '/entrypoint.sh'", "no such file", "give its path"),
        (f'{RUNC}exec: "ddtrace-run": executable file not found in $PATH: unknown',
         "worker.wrapper is 'ddtrace-run'", "not found in $PATH", "give its path"),
        (f'{RUNC}exec: "/srv/run": permission denied: unknown',
         "worker.wrapper is '/srv/run'", "permission denied", "chmod +x"),
        (f'{RUNC}exec: "/opt/venv/bin/python3.12": stat /opt/venv/bin/python3.12: no such file or directory: unknown',
         "worker.python is '/opt/venv/bin/python3.12'", "no such file", "give its path"),
        ("container create failed: executable file `tini` not found in $PATH: No such file or directory",
         "worker.wrapper is 'tini'", "not found in $PATH", "give its path"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("held_back", [True, False])
def test_a_wrapper_that_cannot_be_started_is_named_with_its_field(
    message: str, field: str, says: str, fix: str, held_back: bool
) -> None:
    pod = (
        crashed(message=message, exit_code=128, reason="StartError")
        if held_back
        else waiting("RunContainerError", message)
    )
    found = pod_failure([pod], NOW)
    assert found is not None
    assert found.reason == "WorkerMisconfigured"
    assert found.message.startswith(field)
    assert says in found.message
    assert fix in found.message
    assert "runc" not in found.message
    assert "proj:1.4" in found.message
