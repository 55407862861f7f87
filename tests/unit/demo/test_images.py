"""What `make demo-images` brings to a cluster is what the demo asks for there.

A stand-in for the engine writes down its calls: real ones pull from registries.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from demo import stage

SCRIPT = Path(stage.__file__).with_name("images.sh")


def images(tmp_path: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """How it ended, and the engine's calls."""
    engine, calls = tmp_path / "engine", tmp_path / "calls"
    engine.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    engine.chmod(0o755)
    here = {name: value for name, value in os.environ.items() if name not in ("TO", "IMAGE_PREFIX")}
    done = subprocess.run(
        [SCRIPT],
        env={**here, "ENGINE": str(engine), **{key: one.format(engine=engine) for key, one in environment.items()}},
        text=True,
        capture_output=True,
        check=False,
    )
    return done, [line.split() for line in calls.read_text().splitlines()] if calls.exists() else []


@pytest.mark.parametrize(
    ("environment", "verb", "prefix"),
    [
        ({"IMAGE_PREFIX": "registry.example/team"}, ["push"], "registry.example/team/"),
        ({"IMAGE_PREFIX": "registry.example/team/"}, ["push"], "registry.example/team/"),
        ({"TO": "{engine} image load"}, ["image", "load"], "greenfleet/"),
    ],
)
def test_every_image_that_the_demo_asks_for_is_made_and_brought(
    environment: dict[str, str], verb: list[str], prefix: str, tmp_path: Path
) -> None:
    done, calls = images(tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    asked_for = {one.reference(prefix) for one in stage.IMAGES if one.name != "prometheus"}
    assert {call[-1] for call in calls if call[:-1] == verb} == asked_for
    made = {call[call.index("--tag") + 1] for call in calls if "--tag" in call}
    assert made | {call[-1] for call in calls if call[0] == "tag"} == asked_for


def test_without_a_registry_nothing_is_built_to_be_pushed(tmp_path: Path) -> None:
    done, calls = images(tmp_path)
    assert done.returncode == 1
    assert (
        "set IMAGE_PREFIX=registry.example/team/, or load the images, as with TO='kind load docker-image'"
        in done.stderr
    )
    assert calls == []
