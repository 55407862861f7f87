"""A release says what it is made of, and refuses what nobody could make again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import greenfleet
from tools import release
from tools.release import Release, ReleaseError

ROOT = Path(__file__).resolve().parents[2]
DIGESTS = {"operator": f"sha256:{'a' * 64}", "worker": f"sha256:{'b' * 64}"}


def of(version: str = greenfleet.__version__, registry: str = "registry.example/greenfleet") -> Release:
    return Release(version, registry, plain_http=False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (of("next"), "no semantic version"),
        (of("99.0.0"), "is not the version of the code"),
        (of(registry="oci://registry.example"), "has a scheme"),
        (of(registry=""), "is empty"),
    ],
    ids=["no version", "another version", "a scheme", "no registry"],
)
def test_what_is_no_release_is_refused_with_the_way_out(wrong: Release, said: str) -> None:
    with pytest.raises(ReleaseError, match=said):
        release.check(wrong, trial=False)


def test_the_published_chart_names_both_images_by_digest_and_keeps_its_comments() -> None:
    before = (ROOT / "charts" / "greenfleet" / "values.yaml").read_text(encoding="utf-8")
    after = release.with_images(before, of(), DIGESTS)
    values = yaml.safe_load(after)
    for name, key in release.VALUES_KEY.items():
        assert values[key]["repository"] == f"registry.example/greenfleet/{name}"
        assert values[key]["digest"] == DIGESTS[name]
    assert sum(a != b for a, b in zip(before.splitlines(), after.splitlines(), strict=True)) == 4, "and nothing else"


def test_provenance_names_every_part_by_digest_and_the_commit() -> None:
    statement = release.provenance(of(), {"registry.example/greenfleet/operator": DIGESTS["operator"]})
    assert statement["subject"] == [{"name": "registry.example/greenfleet/operator", "digest": {"sha256": "a" * 64}}]
    definition = statement["predicate"]["buildDefinition"]  # type: ignore[index]
    assert len(definition["resolvedDependencies"][0]["digest"]["gitCommit"]) == 40
