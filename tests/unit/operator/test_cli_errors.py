"""Each sub-command with wrong input and without a cluster: a sentence that says what to do, and never a traceback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

WRONG = {
    "a pool of three parts": (["wait", "a/b/c"], "'a/b/c' is not the name of an object"),
    "a pool in capitals": (["why", "Feeds"], "in lower case"),
    "a path as a deployment": (["adopt", "../feeds"], "is not the name of an object"),
    "an option as a pool": (["why", "a/", "-n", "b"], "is not the name of an object"),
    "two namespaces": (["wait", "a/b", "-n", "c"], "leave one of the two out"),
    "two namespaces of a pool": (["wait", "b", "-n", "c", "-n", "d"], "names 2 namespaces for the one pool b"),
    "a timeout that is none": (["wait", "--timeout=soon"], "--timeout': 'soon' is not a duration"),
    "a timeout that never ends": (["adopt", "feeds", "--timeout=inf"], "--timeout': 'inf' is not a duration"),
    "a negative history": (["why", "feeds", "--history=-1"], "'-1' is not between 0 and 50"),
    "a port that is none": (["operator", "--port=99999"], "'99999' is not between 1 and 65535"),
    "no configuration": (["operator", "--config=/nonexistent"], "mount it or correct --config"),
    "no command": ([], "Missing command (see `greenfleet --help`)"),
    "an unknown command": (["walk"], "No such command 'walk'"),
    "no seed": (["simulate", "--seeds=0"], "count from 1"),
    "a fleet of no size": (["simulate", "--scale=nan"], "not above 0"),
    "a picture without a place": (["simulate", "--plot=/nonexistent/x.png"], "make it first"),
    "a part that is none": (
        ["simulate", "--without=luck"],
        "--without is 'luck', and the autoscaler has no such part: choose from rate, deadline",
    ),
    "a scrape that is none": (["simulate", "--scrape=nan"], "--scrape is nan s, not between 1 and 120"),
    "a set that is none": (["simulate", "--set=all"], "choose from 'tuning', 'holdout', 'known'"),
    "a picture of many traces": (["simulate", "--set=known", "--plot=x.png"], "leave one of the two out"),
    "no trace": (["simulate", "--trace="], "--trace is empty"),
    "a trace that is none": (["simulate", "--trace={home}/empty.json"], "is no trace"),
    "a trace that is no file": (["simulate", "--trace=nope"], "trace 'nope' does not exist: choose from"),
    "no clone": (
        ["simulate", "--traces={home}/none"],
        "and it holds no traces: they come with the source, so run this in a",
    ),
    "no clone for all": (["simulate", "--trace=all", "--traces={home}/none"], "and it holds no traces"),
    "a secret of three parts": (["adopt", "feeds", "--broker-secret=a/b/c"], "write NAME/KEY, such as broker/url"),
    "a secret with no key": (["adopt", "feeds", "--result-secret=a/"], "--result-secret': 'a/' is no Secret and key"),
}
WITHOUT_A_CLUSTER = (["wait"], ["wait", "feeds", "--timeout=3"], ["wait", "shop/feeds"], ["operator"])
SLOW = {
    "an option as a pool",
    "two namespaces of a pool",
    "a timeout that never ends",
    "a negative history",
    "a fleet of no size",
    "no trace",
    "no clone for all",
    "a secret with no key",
    "a trace that is no file",
    "a list",
    "no cluster",
}
"""Each is a process of its own, and says no more than a sibling about the way there."""
BROKEN = {
    "none": None,
    "empty": "",
    "half a map": "{",
    "a list": "[]",
    "no cluster": "current-context: x\ncontexts: []\n",
}


def _cases(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


def greenfleet(home: Path, *arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("KUBE", "COV"))}
    done = subprocess.run(
        [sys.executable, "-m", "greenfleet", *arguments],
        env={**inherited, "HOME": str(home), **({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})},
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done


@pytest.mark.parametrize("case", _cases(WRONG))
def test_wrong_input_is_named(case: str, tmp_path: Path) -> None:
    arguments, said = WRONG[case]
    (tmp_path / "empty.json").write_text("{}")
    done = greenfleet(tmp_path, *(word.format(home=tmp_path) for word in arguments))
    assert done.returncode not in (0, 120)
    assert said in done.stderr


@pytest.mark.parametrize("kubeconfig", _cases(BROKEN))
def test_without_a_cluster_the_kubeconfig_is_named(kubeconfig: str, tmp_path: Path) -> None:
    file, text = tmp_path / "kubeconfig", BROKEN[kubeconfig]
    if text is not None:
        file.write_text(text)
    for arguments in WITHOUT_A_CLUSTER if kubeconfig == "half a map" else WITHOUT_A_CLUSTER[1:2]:
        done = greenfleet(tmp_path, *arguments, kubeconfig=file)
        assert done.returncode in (1, 78)
        assert f"the kubeconfig {file} cannot be used" in done.stderr
        assert "mend it, or name another one with KUBECONFIG" in done.stderr


def test_of_what_kubectl_says_the_log_is_left_out_and_the_way_to_a_cluster_is_named(tmp_path: Path) -> None:
    """kubectl itself, which logs each attempt before it says that the server refuses."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on the PATH")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        (tmp_path / "config").write_text(
            "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], "
            f"clusters: [{{name: a, cluster: {{server: 'http://127.0.0.1:{closed.getsockname()[1]}'}}}}], "
            "users: [{name: a, user: {token: x}}]}"
        )
        done = greenfleet(tmp_path, "adopt", "shop/feeds", kubeconfig=tmp_path / "config")
    first, second = done.stderr.splitlines()
    assert first.startswith("greenfleet: The connection to the server 127.0.0.1:")
    assert second.startswith("kubectl reaches no cluster: choose one with `kubectl config use-context NAME`")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m greenfleet crd | head -1 >/dev/null; true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
