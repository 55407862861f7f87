"""docs/contract.md is what the operator renders, what the worker reads, and what both call their metrics.

The two sides never import each other, so this test reads the text of both.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from greenfleet.manifests import children_of_pool, exporter_children, names
from greenfleet.manifests.names import Role
from greenfleet.prometheus import sources
from tests.golden.test_golden import IMAGE, pools_of

REPOSITORY = Path(__file__).resolve().parents[2]
CONTRACT = (REPOSITORY / "docs" / "contract.md").read_text(encoding="utf-8")
WORKER = {
    path.relative_to(REPOSITORY / "worker").as_posix(): path.read_text(encoding="utf-8")
    for path in (REPOSITORY / "worker" / "greenworker").rglob("*.py")
}
WORKER_SOURCE = "\n".join(WORKER.values())

NOT_READ = {"GREENWORKER_BROKER_URL_CHECK"}
"""Makes kubelet name a missing Secret in the exporter's status; nobody reads it."""
NOT_RENDERED = {"GREENWORKER_POLL_SECONDS", "GREENWORKER_QUEUES"}
"""For tests and for people; the operator leaves their defaults alone."""


def section(title: str) -> str:
    return CONTRACT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_column(text: str) -> list[str]:
    """The names in backquotes in the first column of a table."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ") and not line.startswith("|---")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def fleets() -> list[dict[str, Any]]:
    pools = [*pools_of("everything"), *pools_of("installed"), *pools_of("tls"), *pools_of("parts")]
    return [
        child.manifest
        for pool in pools
        for child in children_of_pool(pool, IMAGE, "IfNotPresent")
        if child.is_deployment
    ]


def exporters() -> list[dict[str, Any]]:
    return [
        next(
            child.manifest
            for child in exporter_children(pools_of(name), IMAGE, "IfNotPresent", [])
            if child.is_deployment
        )
        for name in ("tls", "minimal", "installed", "parts")
    ]


def variables(deployments: list[dict[str, Any]]) -> set[str]:
    containers = [container for one in deployments for container in one["spec"]["template"]["spec"]["containers"]]
    return {
        entry["name"]
        for container in containers
        for entry in container["env"]
        if entry["name"].startswith(("GREENWORKER_", "CELERY_"))
    }


WORKER_VARIABLES = set(first_column(section("How the worker is started")))
EXPORTER_VARIABLES = set(first_column(section("How the exporter is started")))
METRICS = {re.sub(r"\{.*", "", name) for name in first_column(section("Metrics")) if name.startswith("greenworker_")}
EXPORTER_METRICS = set(re.findall(r"`(greenfleet_queue_[a-z_]+)", section("Metrics")))


def test_the_tables_were_found() -> None:
    assert len(WORKER_VARIABLES) > 20
    assert len(EXPORTER_VARIABLES) > 5
    assert len(METRICS) > 14
    assert len(EXPORTER_METRICS) == 6


def test_the_operator_sets_exactly_the_workers_variables_of_the_contract() -> None:
    assert variables(fleets()) == WORKER_VARIABLES - NOT_RENDERED


PARTS = re.compile(r"GREENWORKER_(BROKER|RESULT_BACKEND)_(TRANSPORT|HOST|PORT|PATH|USERNAME|PASSWORD)")
"""Which of them count is said by GREENWORKER_BROKER_PARTS and GREENWORKER_RESULT_BACKEND_PARTS."""


@pytest.mark.parametrize("name", ["minimal", "everything", "installed", "tls", "parts", "prefork"])
def test_every_variable_that_a_worker_reads_is_set_by_the_operator_whatever_the_pool_says(name: str) -> None:
    """What is left out comes from `envFrom`, which nobody sees."""
    read = {one for one in WORKER_VARIABLES if one.startswith("GREENWORKER_") and not PARTS.fullmatch(one)}
    for pool in pools_of(name):
        for child in children_of_pool(pool, IMAGE, "IfNotPresent"):
            if child.is_deployment:
                assert read <= variables([child.manifest])


def test_the_operator_sets_exactly_the_exporters_variables_of_the_contract() -> None:
    assert variables(exporters()) - NOT_READ == EXPORTER_VARIABLES - NOT_RENDERED


def test_the_worker_reads_every_variable_of_the_contract_and_no_other() -> None:
    read = set(re.findall(r"GREENWORKER_[A-Z_]+", WORKER_SOURCE))
    contract = {name for name in WORKER_VARIABLES | EXPORTER_VARIABLES if name.startswith("GREENWORKER_")}
    assert read == contract


def test_defaults_of_files_are_the_ones_of_the_contract_on_both_sides() -> None:
    defaults = dict(re.findall(r"\| `(GREENWORKER_[A-Z_]+_(?:FILE|LOG))` \|[^\n]*`(/[^`]+)` \|", CONTRACT))
    assert set(defaults) == {
        "GREENWORKER_THREADS_FILE",
        "GREENWORKER_START_FILE",
        "GREENWORKER_ROUTES_FILE",
        "GREENWORKER_TERMINATION_LOG",
    }
    rendered = {
        entry["name"]: entry.get("value")
        for one in fleets()
        for entry in one["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    for name, path in defaults.items():
        assert f'"{path}"' in WORKER_SOURCE, name
        assert rendered.get(name, path) == path


def test_the_worker_serves_every_metric_of_the_contract_and_no_other() -> None:
    served = set(re.findall(r'"(greenworker_[a-z_]+)"', WORKER_SOURCE))
    assert served == METRICS


def test_the_exporter_serves_every_metric_of_the_contract_and_no_other() -> None:
    queues = "\n".join(text for path, text in WORKER.items() if "/exporter/" in path)
    assert set(re.findall(r'"(greenfleet_[a-z_]+)"', queues)) == EXPORTER_METRICS


def test_names_of_celery_exporter_are_those_of_the_contract() -> None:
    from tests.unit.worker.test_worker_celery_exporter_metrics import CELERY_EXPORTER

    said = {name.removesuffix("_total") for name in re.findall(r"`(celery_[a-z_]+)", section("Metrics"))}
    queues = {"celery_queue_length", "celery_active_consumer_count"}
    assert said == {*CELERY_EXPORTER, *queues, "celery_task_sent"}
    assert queues == set(re.findall(r'"(celery_[a-z_]+)"', WORKER["greenworker/exporter/exporter.py"]))


def test_the_depth_that_our_exporter_serves_for_dashboards_is_not_taken_for_celery_exporters() -> None:
    assert "broker=''" in sources.BUILT_IN["celery-exporter"].selector


def test_the_operator_asks_for_metrics_of_the_contract_only() -> None:
    asked = set(re.findall(r"greenworker_[a-z_]+", sources.workers(60)))
    asked |= set(re.findall(r"greenfleet_queue_[a-z_]+", sources.greenfleet_depth(60).expression))
    histograms = {re.sub(r"_(sum|count|bucket)$", "", name) for name in asked}
    assert histograms <= METRICS | EXPORTER_METRICS
    assert len(asked) > 12


def test_names_labels_and_ports_are_those_of_the_contract() -> None:
    said = section("Pods and labels")
    for name in (
        names.fleet_name("<pool>", Role.EVENTLET),
        names.fleet_name("<pool>", Role.PREFORK),
        names.config_name("<pool>"),
        names.POOL_LABEL,
        names.ROLE_LABEL,
        names.SCRAPE_LABEL,
        names.WORKER_CONTAINER,
        names.AGENT_CONTAINER,
        names.EXPORTER_CONTAINER,
        str(names.METRICS_PORT),
    ):
        assert name in said, name
    assert names.THREADS_ANNOTATION in CONTRACT
    assert names.exporter_name("secret/key").startswith("greenfleet-queues-")
    assert re.fullmatch(r"greenfleet-queues-[0-9a-f]{10}", names.exporter_name("secret/key"))


def test_commands_are_those_of_the_contract_and_exist_in_the_worker() -> None:
    for deployment in fleets():
        spec = deployment["spec"]["template"]["spec"]
        command = spec["containers"][0]["command"]
        if command[0] == "opentelemetry-instrument":  # worker.wrapper of a pool
            command = command[1:]
        installed = "initContainers" not in spec
        expected = ["-m", "greenworker"] if installed else [f"{names.AGENT_DIRECTORY}/bin/launch.py"]
        assert command[1 : 1 + len(expected)] == expected
        assert command[1 + len(expected)] == "-A"
        assert " ".join(expected) in CONTRACT
        assert [argument for argument in command if argument.startswith("--without-")] == [
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
        if not installed:
            assert spec["initContainers"][0]["command"][1:] == [
                "-m",
                "greenworker.bootstrap.inject",
                names.AGENT_DIRECTORY,
            ]
    for deployment in exporters():
        assert deployment["spec"]["template"]["spec"]["containers"][0]["command"][1:] == ["-m", "greenworker.exporter"]
    for module in ("greenworker/__main__.py", "greenworker/bootstrap/inject.py", "greenworker/exporter/__main__.py"):
        assert module in WORKER, module


def test_the_agent_lands_where_the_worker_is_started_from(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "greenworker.bootstrap.inject", str(tmp_path)], check=True)
    assert (tmp_path / "bin" / "launch.py").is_file()


def test_probe_paths_are_served_by_the_worker() -> None:
    for deployment in [*fleets(), *exporters()]:
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                assert f'"{container[probe]["httpGet"]["path"]}"' in WORKER["greenworker/monitoring/exposition.py"]


def test_a_misconfigured_start_ends_with_status_78_and_four_parts_that_the_operator_understands(tmp_path: Path) -> None:
    from greenfleet.status.diagnosis import pod_failure
    from tests.unit.operator.objects import crashed

    log = tmp_path / "termination"
    done = subprocess.run(
        [sys.executable, "-m", "greenworker", "-A", "no_such_app", "worker", "-P", "eventlet", "-Q", "feeds"],
        env={
            "PATH": "/usr/bin:/bin",
            "GREENWORKER_TERMINATION_LOG": str(log),
            "GREENWORKER_POOL": "shop/feeds",
            "GREENWORKER_METRICS_PORT": "0",
            "CELERY_BROKER_URL": "redis://:hunter2@127.0.0.1:1/0",
        },
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    said = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
    assert set(said) == {"field", "value", "reason", "fix"}
    found = pod_failure([crashed(message=log.read_text(encoding="utf-8"), exit_code=78)], 0.0)
    assert found is not None
    assert found.reason == "WorkerMisconfigured"
    assert "hunter2" not in found.message


@pytest.mark.parametrize("side", ["greenfleet", "greenworker"])
def test_neither_side_imports_the_other(side: str) -> None:
    other = {"greenfleet": "greenworker", "greenworker": "greenfleet"}[side]
    root = REPOSITORY / {"greenfleet": "operator", "greenworker": "worker"}[side] / side
    for path in root.rglob("*.py"):
        assert not re.search(rf"^\s*(from|import) {other}\b", path.read_text(encoding="utf-8"), re.MULTILINE), path
