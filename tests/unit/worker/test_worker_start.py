"""Arguments, environment, startup_checks and errors: pure functions of the launcher."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.functional import retry_over_time

import greenworker
from greenworker.bootstrap import start
from greenworker.bootstrap.inject import inject
from greenworker.bootstrap.settings import PUBLISH_RETRY_POLICY
from greenworker.bootstrap.startup_checks import Arguments, check
from greenworker.environment import GREEN_THREADS_CEILING, Environment, read_threads
from greenworker.misconfigured import TERMINATION_LOG_LIMIT_BYTES, MisconfiguredError

GOOD = ["-A", "proj", "worker", "-P", "eventlet", "-Q", "feeds", "-l", "WARNING"]


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["-A", "proj"], "-A", "proj"),
        (["-Aproj"], "-A", "proj"),
        (["--app=proj"], "-A", "proj"),
        (["--app", "proj"], "-A", "proj"),
        (["worker", "-BE"], "-E", ""),
        (["worker", "-BE"], "-B", ""),
        (["worker", "-qPeventlet"], "-P", "eventlet"),
        (["worker", "--events"], "-E", ""),
        (["worker", "--task-events", "-c", "5"], "-c", "5"),
        (["worker", "--autoscale", "10,1"], "--autoscale", "10,1"),
        (["worker", "-P", "prefork", "-P", "eventlet"], "-P", "eventlet"),
    ],
)
def test_reads_options_as_click_does(argv: list[str], name: str, value: str) -> None:
    assert Arguments.parse(argv).options[name] == value


def test_a_value_is_not_an_option() -> None:
    arguments = Arguments.parse(["-A", "proj", "worker", "-n", "-E", "-Q", "feeds,-B"])
    assert "-E" not in arguments.options
    assert "-B" not in arguments.options
    assert arguments.positional == ("worker",)


def test_what_a_task_publishes_waits_for_a_broker_that_is_away_for_two_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With kombu's own loop, and without its pauses."""
    waited: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", waited.append)

    def refused() -> None:
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        retry_over_time(refused, ConnectionRefusedError, **PUBLISH_RETRY_POLICY)
    assert sum(waited) >= 120.0


def test_accepts_what_the_operator_sends() -> None:
    check(Arguments.parse(GOOD), "eventlet", {})
    check(Arguments.parse([*GOOD, "-E"]), "eventlet", {})
    check(Arguments.parse(["-A", "proj", "worker", "-P", "prefork", "-c", "4", "-E"]), "prefork", {})


@pytest.mark.parametrize(
    "url", ["redis://:hunter2/s3cret@h", "rediss://u:1234/s3cret@h/0", "redis://u:hun@ter2/s3cret@h/0"]
)
def test_an_unreadable_result_backend_is_refused_without_a_part_of_its_password(url: str) -> None:
    with pytest.raises(MisconfiguredError) as refused:
        check(Arguments.parse(GOOD), "eventlet", {"CELERY_BROKER_URL": "redis://h", "CELERY_RESULT_BACKEND": url})
    assert refused.value.field == "resultBackend.urlFrom"
    for said in (str(refused.value), refused.value.as_json()):
        assert "hun" not in said
        assert "s3cret" not in said


@pytest.mark.parametrize(
    "url",
    [
        "",
        "db+postgresql://u:p@one:5432,two:5433/db?options=a@b",
        "mongodb://one:27017,two:27017/x",
        "rpc://",
        "redis://:p@h/1",
    ],
)
def test_a_result_backend_of_another_kind_has_its_own_address(url: str) -> None:
    check(Arguments.parse(GOOD), "eventlet", {"CELERY_RESULT_BACKEND": url})


@pytest.mark.parametrize("url", ["redis://user:top/secret@host:6379/0", "amqp://user:top#secret@host//", "top-secret"])
def test_an_unreadable_broker_url_is_refused_without_a_part_of_its_password(url: str) -> None:
    with pytest.raises(MisconfiguredError) as refused:
        check(Arguments.parse(GOOD), "eventlet", {"CELERY_BROKER_URL": url})
    assert refused.value.field == "broker.urlFrom"
    for said in (str(refused.value), refused.value.as_json()):
        assert "top" not in said
        assert "secret@" not in said
        assert "%2F" in said


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p%2Fw@host:6379/0",
        "rediss://host/0?ssl_cert_reqs=required",
        "amqps://user:pass@host:5671/vhost",
        "sentinel://one:26379;sentinel://:pw@two:26379/0?master_name=feeds",
        "redis+socket:///tmp/redis.sock",
        "redis://[::1]:6379/0",
    ],
)
def test_every_readable_broker_url_is_accepted(url: str) -> None:
    check(Arguments.parse(GOOD), "eventlet", {"CELERY_BROKER_URL": url})


@pytest.mark.parametrize(
    ("more", "environ"),
    [
        (["-B"], {}),
        (["--beat"], {}),
        (["--autoscale=9,1"], {}),
        (["-c", "5"], {}),
        (["--concurrency=5"], {}),
        (["--max-tasks-per-child=9"], {}),
        (["--max-memory-per-child", "9"], {}),
        (["--pool=solo"], {}),
        (["-D"], {}),
        (["-P", "gevent"], {}),
        ([], {"REMAP_SIGTERM": "SIGQUIT"}),
    ],
)
def test_refuses_what_breaks_the_pool(more: list[str], environ: dict[str, str]) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        check(Arguments.parse([*GOOD, *more]), "eventlet", environ)
    said = json.loads(caught.value.as_json())
    assert set(said) == {"field", "value", "reason", "fix"}
    assert all(said.values())


@pytest.mark.parametrize(
    ("more", "needle"),
    [
        (["-Q", "foreign"], "queues"),
        (["-Qforeign"], "queues"),
        (["--queues=foreign"], "queues"),
        (["-EQforeign"], "queues"),
        (["--queues", "foreign"], "queues"),
        (["-X", "feeds"], "queues"),
        (["--exclude-queues=feeds"], "queues"),
        (["-A", "other"], "app"),
        (["-n", "me@%h"], "worker.labels"),
        (["--hostname=me"], "worker.labels"),
        (["-P", "eventlet"], "prefork.tasks"),
        (["--prefetch-multiplier=9"], "worker.prefetchMultiplier"),
        (["--time-limit=9"], "taskTimeLimits.hard"),
        (["--soft-time-limit", "9"], "taskTimeLimits.soft"),
        (["--purge"], "celery purge"),
        (["--discard"], "celery purge"),
        (["--uid=0"], "runAsUser"),
        (["broker_url=redis://:hunter2@evil"], "configuration"),
        (["--", "task.always_eager=1"], "configuration"),
        (["-b", "redis://:hunter2@evil"], "broker.urlFrom"),
        (["--broker=redis://:hunter2@evil"], "broker.urlFrom"),
        (["--result-backend=redis://:hunter2@evil"], "resultBackend"),
    ],
)
@pytest.mark.parametrize("role", ["eventlet", "prefork"])
def test_an_argument_does_not_go_around_a_field(more: list[str], needle: str, role: str) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        good = [word if word != "eventlet" else role for word in [*GOOD, "-n", "worker@%h"]]
        check(Arguments.parse([*good, *(word if word != "eventlet" else role for word in more)]), role, {})
    assert caught.value.field == "worker.extraArgs"
    assert needle in caught.value.reason + caught.value.fix
    assert "hunter2" not in caught.value.as_json()


URL = "redis://:hunter2@ours"


@pytest.mark.parametrize(
    ("environ", "needle"),
    [
        ({"CELERY_BROKER_READ_URL": "redis://:hunter2@evil"}, "broker.urlFrom"),
        ({"CELERY_BROKER_WRITE_URL": "redis://:hunter2@evil"}, "broker.urlFrom"),
        ({"BROKER_URL": "redis://:hunter2@evil"}, "broker.urlFrom"),
        ({"RESULT_BACKEND": "redis://:hunter2@evil", "CELERY_RESULT_BACKEND": URL}, "resultBackend.urlFrom"),
        ({"CELERY_WORKER_EXCLUDE_QUEUES": "feeds"}, "queues"),
    ],
)
def test_a_variable_does_not_go_around_a_field(environ: dict[str, str], needle: str) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        check(Arguments.parse(GOOD), "eventlet", {"CELERY_BROKER_URL": URL, **environ})
    assert caught.value.field == "worker.env"
    assert needle in caught.value.fix
    assert "hunter2" not in caught.value.as_json()


@pytest.mark.parametrize(
    ("variable", "effect"),
    [("PURGE", "throw away what waits"), ("BEAT", "a beat of its own"), ("DETACH", "ends its container")],
)
def test_a_variable_that_no_worker_may_have_is_refused_and_speaks_of_no_field(variable: str, effect: str) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        check(Arguments.parse(GOOD), "eventlet", {f"CELERY_WORKER_{variable}": "1"})
    assert (caught.value.field, caught.value.value) == ("worker.env", f"CELERY_WORKER_{variable}")
    assert effect in caught.value.reason
    assert "field" not in caught.value.reason, "the resource has none for it"
    assert caught.value.fix == "remove the variable"


def test_a_variable_of_the_app_that_says_the_same_is_its_own_business() -> None:
    check(
        Arguments.parse(GOOD),
        "eventlet",
        {"CELERY_BROKER_URL": URL, "BROKER_URL": URL, "RESULT_BACKEND": "redis://other"},
    )


def test_refuses_another_command() -> None:
    with pytest.raises(MisconfiguredError, match="workers only"):
        check(Arguments.parse(["-A", "proj", "beat", "-P", "eventlet"]), "eventlet", {})


@given(st.text(), st.text(max_size=20_000))
def test_an_error_fits_into_a_termination_message(value: str, reason: str) -> None:
    text = MisconfiguredError("app", value, reason, "fix it").as_json()
    assert len(text.encode()) <= TERMINATION_LOG_LIMIT_BYTES
    assert "\n" not in text
    assert json.loads(text)["fix"] == "fix it"


def environment(**values: str) -> Environment:
    return Environment.read({"GREENWORKER_POOL": "ns/feeds", **values})


def test_defaults_are_the_contracts() -> None:
    read = environment()
    assert (read.role, read.metrics_port, read.drain_seconds) == ("eventlet", 9540, 60)
    assert (read.warn_after_seconds, read.restart_after_seconds) == (0.1, 60)
    assert (read.soft_limit_seconds, read.hard_limit_seconds, read.max_tasks) == (None, None, None)
    assert str(read.threads_file) == "/etc/greenfleet/pod/threads"
    assert str(read.start_file) == "/etc/greenfleet/pool/threads"
    assert str(read.routes_file) == "/etc/greenfleet/pool/routes"
    assert (read.prefetch_multiplier, read.key_prefix, read.priority_steps) == (1, "", None)
    assert read.remote_control == "ReadOnly"
    assert read.termination_log == "/dev/termination-log"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GREENWORKER_ROLE", "gevent"),
        ("GREENWORKER_DRAIN_SECONDS", "soon"),
        ("GREENWORKER_DRAIN_SECONDS", "-1"),
        ("GREENWORKER_SOFT_LIMIT_SECONDS", "nan"),
        ("GREENWORKER_METRICS_PORT", "http"),
        ("GREENWORKER_MAX_TASKS", "1.5"),
        ("GREENWORKER_PREFORK_TASKS", "proj.parse"),
        ("GREENWORKER_PREFORK_TASKS", '{"a": 1}'),
        ("GREENWORKER_PRIORITY_STEPS", "high,low"),
        ("GREENWORKER_REMOTE_CONTROL", "readonly"),
        ("GREENWORKER_POOL", ""),
    ],
)
def test_says_which_variable_is_wrong(name: str, value: str) -> None:
    with pytest.raises(MisconfiguredError):
        environment(**{name: value})


def test_reads_lists() -> None:
    read = environment(GREENWORKER_PREFORK_TASKS='["a.*", "b"]', GREENWORKER_PRIORITY_STEPS="9,0,3")
    assert read.prefork_tasks == ("a.*", "b")
    assert read.priority_steps == (0, 3, 9)


@pytest.mark.parametrize(
    ("text", "threads"),
    [
        ("250\n", 250),
        ('"250"', 250),
        ("", None),
        ("  ", None),
        ("many", None),
        ("0", 1),
        ("-3", 1),
        ("9999999", GREEN_THREADS_CEILING),
    ],
)
def test_reads_threads(tmp_path: Path, text: str, threads: int | None) -> None:
    path = tmp_path / "threads"
    path.write_text(text)
    assert read_threads(path) == threads


def test_no_threads_file_means_nobody_has_spoken(tmp_path: Path) -> None:
    assert read_threads(tmp_path / "threads") is None


def test_router_and_routes_agree(tmp_path: Path) -> None:
    from greenworker.brokers.forwarding import Routes
    from greenworker.router import PreforkRouter

    router = PreforkRouter("proj.parse", "proj.render_*", queue="feeds")
    routes = Routes(["proj.parse", "proj.render_*"], tmp_path / "routes")
    for name in ("proj.parse", "proj.render_page", "proj.fetch", "other.parse"):
        sent: Any = router(name, (), {}, {})
        assert bool(sent) == routes.matches(name)
    assert router("proj.parse", (), {}, {}) == {"queue": "feeds.prefork"}
    assert PreforkRouter("x", queue="feeds.prefork")("x", (), {}, {}) == {"queue": "feeds.prefork"}


def test_auto_routes_come_and_go_with_their_file(tmp_path: Path) -> None:
    from greenworker.brokers.forwarding import Routes

    path = tmp_path / "routes"
    routes = Routes([], path)
    routes.reload()
    assert not routes.matches("proj.parse")
    path.write_text('["proj.parse"]')
    routes.reload()
    assert routes.matches("proj.parse")
    path.write_text("not json")
    routes.reload()
    assert routes.matches("proj.parse"), "a broken file changes nothing"
    path.write_text("[]")
    routes.reload()
    assert not routes.matches("proj.parse")


def test_a_worker_does_not_import_a_shell() -> None:
    """`celery amqp` is the only command that has one; who wants click_repl later gets the real one."""
    code = (
        "import sys\n"
        "from greenworker.bootstrap import import_stubs\n"
        "with import_stubs.without_shell():\n"
        "    from celery.bin.celery import celery\n"
        "assert 'worker' in celery.commands and 'prompt_toolkit' not in sys.modules\n"
        "from click_repl import repl\n"
        "assert 'prompt_toolkit' in sys.modules and repl.__module__.startswith('click_repl')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_interpreter_of_the_same_version_finds_the_injected_agent_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Compiled once in the image, and not again in every pod of a tenth of a core."""
    package = tmp_path / "site" / "greenworker"
    shutil.copytree(Path(greenworker.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(package, quiet=1)
    monkeypatch.setattr(greenworker, "__file__", str(package / "__init__.py"))
    inject(tmp_path / "greenfleet")
    run = [sys.executable, "-v", "-c", "import greenworker.bootstrap.launch"]
    environment = {"PYTHONPATH": str(tmp_path / "greenfleet" / "lib"), "PATH": os.environ["PATH"]}
    told = subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"code object from '{tmp_path}/greenfleet/lib/greenworker/bootstrap/__pycache__/launch" in told.stderr


@pytest.mark.parametrize(
    ("installed", "chosen", "expected"),
    [(True, None, "wait_selector"), (True, "wait_select", "wait_select"), (False, None, None)],
)
def test_psycopg_3_waits_green_unless_somebody_chose_otherwise(
    installed: bool, chosen: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "find_spec", lambda name: object() if installed and name == "psycopg" else None)
    monkeypatch.setenv("PSYCOPG_WAIT_FUNC", chosen or "")
    if chosen is None:
        monkeypatch.delenv("PSYCOPG_WAIT_FUNC")
    start._choose_green_waits()
    assert os.environ.get("PSYCOPG_WAIT_FUNC") == expected


@pytest.mark.parametrize(("code", "status"), [("0", 0), ("None", 0), ("3", 3), ("'a reason'", 1)])
def test_a_worker_ends_with_what_was_registered_and_takes_no_interpreter_apart(code: str, status: int) -> None:
    """A native thread that is ended with the interpreter may end the process with SIGSEGV."""
    script = f"""
import atexit
from greenworker.bootstrap.start import _leave

class Last:
    def __del__(self, print=print):
        print("apart", flush=True)

last = Last()
atexit.register(print, "registered")
_leave({code})
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (status, "registered\n")
    assert ended.stderr == ("a reason\n" if status == 1 else "")
