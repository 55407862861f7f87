"""An image is built anew when, and only when, something changes that goes into it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    monkeypatch.syspath_prepend(str(REPOSITORY / "cluster"))
    monkeypatch.delitem(sys.modules, "kubelocal.buildcontext", raising=False)
    buildcontext = importlib.import_module("kubelocal.buildcontext")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY app /app\n")
    (tmp_path / "app" / "inner" / "__pycache__").mkdir(parents=True)
    (tmp_path / "app" / "inner" / "code.py").write_text("1")
    return lambda: str(buildcontext.digest(context=tmp_path, dockerfile=tmp_path / "Dockerfile"))


@pytest.mark.parametrize("ignored", ["", "*\n!app\n**/__pycache__\n", "*\n!app/inner\n"])
def test_a_changed_file_changes_the_digest(tmp_path: Path, digest: Callable[[], str], ignored: str) -> None:
    (tmp_path / ".dockerignore").write_text(ignored)
    before = digest()
    (tmp_path / "app" / "inner" / "code.py").write_text("2")
    assert digest() != before


@pytest.mark.parametrize("ignored", ["**/__pycache__\n", "app/inner\n", "*\n!app\n**/code.py\n**/__pycache__", "*\n"])
def test_what_is_ignored_does_not(tmp_path: Path, digest: Callable[[], str], ignored: str) -> None:
    (tmp_path / ".dockerignore").write_text(ignored)
    before = digest()
    (tmp_path / "app" / "inner" / "__pycache__" / "code.pyc").write_text("2")
    if "__pycache__" not in ignored or "code" in ignored:
        (tmp_path / "app" / "inner" / "code.py").write_text("2")
    assert digest() == before
