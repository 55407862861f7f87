"""The administrator's configuration: refused at start with field, value, reason and fix, and never with a password in
it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from greenfleet.cli.main import main
from greenfleet.settings import Settings, SettingsError, load


def loaded(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(SettingsError) as error:
        loaded(tmp_path, text)
    return str(error.value)


@pytest.mark.parametrize("text", ["", "---", "{}", "# nothing"])
def test_an_empty_configuration_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, text) == Settings() == load(None)


def test_a_whole_configuration_is_read(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        """
        prometheus:
          defaultServer: team
          servers:
            team: {url: https://prometheus.example:9090/prom, scrapeInterval: 30s, timeout: 2s, bearerTokenFile: /t}
          sources:
            mine: {selector: 'depth{job="x"}', queueLabel: name}
          allowQuery: true
          verifyNamespace: false
        worker: {image: registry.example/worker@sha256:abc, imagePullPolicy: Always, imagePullSecrets: [registry]}
        namespaces: [a, b]
        tick: 5s
        apiConcurrency: 4
        leaseDuration: 30s
        logLevel: debug
        logFormat: text
        """,
    )
    assert settings.prometheus.servers["team"].scrape_interval == "30s"
    assert settings.prometheus.sources["mine"].queue_label == "name"
    assert settings.prometheus.allow_query
    assert (settings.namespaces, settings.tick, settings.api_concurrency) == (["a", "b"], "5s", 4)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tick: soon", ["tick is 'soon'", "such as 30s"]),
        ("tick: 5", ["tick is 5"]),
        ("tick: 0s", ["tick is '0s'", "not above 0"]),
        ("leaseDuration: 2s", ["leaseDuration is '2s'", "less than 3s"]),
        (
            "podMonitors: {interval: 5s}",
            ["podMonitors.interval"],
        ),
        ("apiConcurrency: 0", ["apiConcurrency is 0", "greater than or equal to 1: correct it"]),
        ("apiConcurrency: 100000", ["apiConcurrency is 100000", "256"]),
        ("logLevel: loud", ["logLevel is 'loud'", "'debug'"]),
        ("namespace: [a]", ["namespace:", "has no such key", "correct its name, or remove it", "docs/operator.md"]),
        ("logLevl: info", ["logLevl is 'info': the configuration has no such key: correct its name, or remove it"]),
        (
            "prometheus: {servers: {default: {url: 'http://p', timeOut: 3s}}}",
            ["prometheus.servers.default.timeOut is '3s'", "has no such key", "correct its name, or remove it"],
        ),
        ("namespaces: default", ["namespaces is 'default'", "list"]),
        ("prometheus: {defaultServer: other}", ["'other'", "default", "prometheus.servers"]),
        ("prometheus: {servers: {}}", ["'default'", "none"]),
        ("prometheus: {servers: {default: {url: 'ftp://x'}}}", ["prometheus.servers.default.url is 'ftp://x'"]),
        (
            "prometheus: {servers: {default: {url: 'http://vm:8428/select/0/prometheus?latency_offset=1s'}}}",
            ["servers.default.url is", "queryParameters"],
        ),
        ("prometheus: {servers: {default: {url: 'http://p/#x'}}}", ["servers.default.url is", "queryParameters"]),
        (
            "prometheus: {servers: {default: {url: 'http://p', headers: {Authorization: Bearer x}}}}",
            ["servers.default.headers", "bearerTokenFile"],
        ),
        (
            "prometheus: {servers: {default: {url: 'http://p', headers: {'a b': c}}}}",
            ["servers.default.headers", "'a b'"],
        ),
        (
            "prometheus: {servers: {default: {url: 'http://p', queryParameters: {query: up}}}}",
            ["servers.default.queryParameters", "remove it"],
        ),
        *(
            (
                f"prometheus: {{servers: {{default: {{url: 'https://p', {half}: /f}}}}}}",
                ["prometheus.servers.default", f"{half} is '/f', and {other} is empty", "belong together", "set both"],
            )
            for half, other in (("certFile", "keyFile"), ("keyFile", "certFile"))
        ),
        *(
            (
                f"prometheus: {{servers: {{default: {{url: 'http://p', basicAuth: {{{half}: /f}}}}}}}}",
                [f"basicAuth.{half} is '/f', and basicAuth.{other} is empty", "belong together", "set both"],
            )
            for half, other in (("usernameFile", "passwordFile"), ("passwordFile", "usernameFile"))
        ),
        (
            "prometheus: {servers: {default: {url: 'http://p', certFile: /c, keyFile: /k}}}",
            ["certFile", "use https"],
        ),
        (
            "prometheus: {servers: {default: {url: 'http://p', bearerTokenFile: /t, "
            "basicAuth: {usernameFile: /u, passwordFile: /p}}}}",
            ["bearerTokenFile and basicAuth", "remove one"],
        ),
        ("prometheus: {servers: {default: {}}}", ["prometheus.servers.default.url", "required: add it"]),
        ("prometheus: {servers: {my_team: {url: 5}, default: {url: 'http://x'}}}", ["prometheus.servers.my_team.url"]),
        ("prometheus: {servers: {default: {url: 'http://x', scrapeInterval: -1s}}}", ["scrapeInterval is '-1s'"]),
        ("prometheus: {sources: {mine: {}}}", ["prometheus.sources.mine.selector"]),
        ("worker: {imagePullPolicy: Sometimes}", ["worker.imagePullPolicy is 'Sometimes'"]),
        ("just words", ["just words"]),
        ("[1, 2]", ["the file"]),
        ("a: [", ["not YAML"]),
    ],
)
def test_what_cannot_be_used_is_said_with_file_field_and_value(tmp_path: Path, text: str, parts: list[str]) -> None:
    said = refusal(tmp_path, text)
    assert "config.yaml" in said
    for part in parts:
        assert part in said


def test_every_mistake_is_said_at_once(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, "tick: soon\nlogLevel: loud\nworker: {image: 5}").splitlines()) == 3


def test_a_missing_file_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--config"):
        load(tmp_path / "missing.yaml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(SettingsError):
        load(path)


def test_the_command_ends_with_a_sentence_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("tick: soon")
    assert main(["operator", "--config", str(path)]) == 78
    said = capsys.readouterr().err
    assert said.startswith("greenfleet: ")
    assert "Traceback" not in said


def test_a_password_in_a_servers_url_is_refused_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("prometheus: {servers: {default: {url: 'https://reader:hunter2@prometheus.example'}}}")
    assert main(["operator", "--config", str(path)]) == 78
    said = capsys.readouterr().err
    assert "prometheus.servers.default.url" in said
    assert "hunter2" not in said


def test_a_built_in_source_can_be_given_namespaces_without_its_selector(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("prometheus: {sources: {celery-exporter: {namespaces: [monitoring]}}}")
    found = load(path).prometheus.source("celery-exporter")
    assert found is not None
    assert (found.selector, found.queue_label) == ("celery_queue_length{broker=''}", "queue_name")
    assert found.namespaces == ["monitoring"]
