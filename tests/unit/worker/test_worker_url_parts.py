"""The URL of a broker by parts: what is encoded, what is refused, and that no error quotes a part."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.url import url_to_parts

from greenworker.bootstrap.startup_checks import Arguments, check
from greenworker.brokers.parts import BROKER, RESULT_BACKEND, parts, set_urls, url_of
from greenworker.brokers.url import is_readable
from greenworker.exporter.exporter import Options
from greenworker.misconfigured import MisconfiguredError
from greenworker.redaction import redacted

ODD = "p@ss:w/o%r?d#[;]&=+ \\'\"é€\U0001f407"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).filter(
    lambda text: text.rstrip("\r\n") == text
)


def test_a_password_alone_as_charts_of_redis_have_it() -> None:
    found = url_of("broker", {"transport": "rediss", "host": "redis.shop.svc", "password": "s3cret\n"})
    assert found == "rediss://:s3cret@redis.shop.svc/"


def test_everything_as_the_cluster_operator_of_rabbitmq_has_it() -> None:
    given_parts = {"transport": "amqp", "host": "rabbit.shop.svc", "port": "5672", "username": "u", "password": "p"}
    assert url_of("broker", given_parts) == "amqp://u:p@rabbit.shop.svc:5672/"
    assert url_of("broker", {**given_parts, "path": "/"}) == "amqp://u:p@rabbit.shop.svc:5672/%2F"


@given(TEXT, TEXT, TEXT)
def test_kombu_reads_the_parts_as_they_were_written(username: str, password: str, path: str) -> None:
    found = url_of(
        "broker",
        {"transport": "amqps", "host": "h", "port": "1", "path": path, "username": username, "password": password},
    )
    read = url_to_parts(found)
    assert (read.scheme, read.hostname, read.port) == ("amqps", "h", 1)
    assert (unquote(urlsplit(found).username or ""), read.password) == (username, password)
    assert read.path == path
    assert is_readable(found)


def test_no_part_of_an_odd_password_is_left_of_its_url_in_a_log() -> None:
    found = url_of("broker", {"transport": "redis", "host": "h", "username": "u", "password": ODD})
    assert redacted(f"no answer from {found}") == "no answer from redis://***@h/"


@pytest.mark.parametrize(
    ("host", "shown"),
    [("::1", "[::1]"), ("[2001:db8::7]", "[2001:db8::7]"), ("10.0.0.1", "10.0.0.1"), ("a_b.svc.", "a_b.svc.")],
)
def test_addresses_and_names_are_hosts(host: str, shown: str) -> None:
    assert url_of("broker", {"transport": "redis", "host": host}) == f"redis://{shown}/"


GOOD = {"transport": "redis", "host": "redis"}
BAD: dict[str, tuple[dict[str, str], str]] = {
    # what is said, and the field that is blamed
    "another user in the host": ({"host": "user:hunter2@evil"}, "host"),
    "a path in the host": ({"host": "evil/hunter2"}, "host"),
    "a whole URL as the host": ({"host": "redis://:hunter2@evil:6379/0"}, "host"),
    "several hosts": ({"host": "one;hunter2"}, "host"),
    "a line break in the host": ({"host": "one\nhunter2"}, "host"),
    "a zone": ({"host": "fe80::1%hunter2"}, "host"),
    "a host in another script": ({"host": "hünter2"}, "host"),
    "no host": ({"host": "\n"}, "host"),
    "a port with a path": ({"port": "6379/hunter2"}, "port"),
    "port 0": ({"port": "0"}, "port"),
    "a port that is too high": ({"port": "65536"}, "port"),
    "a port in other digits": ({"port": "６３７９"}, "port"),
    "a query in the database": ({"path": "0?ssl_cert_reqs=hunter2"}, "path"),
    "a slash before the database": ({"path": "/0"}, "path"),
    "another transport": ({"transport": "sqs"}, "transport"),
    "a URL as the transport": ({"transport": "redis://:hunter2@evil"}, "transport"),
    "Sentinels": ({"transport": "sentinel"}, "transport"),
    "an empty password": ({"password": ""}, "password"),
    "a password that is an empty line": ({"password": "\n"}, "password"),
    "a password in Latin-1": ({"password": "hunter2\udcfc"}, "password"),
    "an empty user": ({"username": ""}, "username"),
}


BOTH = [(case, field) for case in BAD for field in ("broker", "resultBackend")]
OWN_TRANSPORTS = [("another transport", "resultBackend"), ("Sentinels", "resultBackend")]
"""Result backends have those that Celery has."""


@pytest.mark.parametrize(("case", "field"), [one for one in BOTH if one not in OWN_TRANSPORTS])
def test_a_part_that_does_not_fit_is_refused_in_four_parts_and_not_quoted(case: str, field: str) -> None:
    given_parts, blamed = BAD[case]
    with pytest.raises(MisconfiguredError) as refused:
        url_of(field, {**GOOD, **given_parts})
    assert refused.value.field == f"{field}.{blamed}"
    assert refused.value.reason
    assert refused.value.fix
    for said in (str(refused.value), refused.value.as_json()):
        assert "hunter2" not in said


@pytest.mark.parametrize(("field", "named"), [("broker", "amqps"), ("resultBackend", "db+postgresql")])
def test_a_transport_that_is_refused_names_those_of_its_field(field: str, named: str) -> None:
    with pytest.raises(MisconfiguredError) as refused:
        url_of(field, {**GOOD, "transport": "Redis"})
    assert named in refused.value.fix
    assert ("amqp" in refused.value.fix) == (field == "broker"), "Celery has no results on AMQP"


@pytest.mark.parametrize("part", ["host", "transport"])
def test_a_part_that_is_missing_is_refused(part: str) -> None:
    with pytest.raises(MisconfiguredError) as refused:
        url_of("broker", {name: value for name, value in GOOD.items() if name != part})
    assert refused.value.field == f"broker.{part}"


def test_the_urls_are_where_celery_looks_for_them_and_may_be_made_twice() -> None:
    environ = {
        "CELERY_BROKER_URL": "",
        BROKER["transport"]: "redis",
        BROKER["host"]: "here",
        RESULT_BACKEND["transport"]: "db+postgresql",
        RESULT_BACKEND["host"]: "db",
        RESULT_BACKEND["path"]: "results",
        RESULT_BACKEND["username"]: "a@b",
    }
    for _ in range(2):
        set_urls(environ)
    assert environ["CELERY_BROKER_URL"] == "redis://here/"
    assert environ["CELERY_RESULT_BACKEND"] == "db+postgresql://a%40b@db/results"


@pytest.mark.parametrize(
    ("variables", "url", "field"),
    [(BROKER, "CELERY_BROKER_URL", "broker"), (RESULT_BACKEND, "CELERY_RESULT_BACKEND", "resultBackend")],
)
def test_a_url_and_parts_together_are_refused(variables: dict[str, str], url: str, field: str) -> None:
    """One of them comes from the image or `envFrom`, around the resource."""
    with pytest.raises(MisconfiguredError) as refused:
        set_urls({url: "redis://:hunter2@elsewhere", variables["transport"]: "redis", variables["host"]: "here"})
    assert (refused.value.field, refused.value.value) == ("worker.env", variables["transport"])
    assert f"{field}.urlFrom" in refused.value.fix
    assert "hunter2" not in refused.value.as_json()


BY_PARTS = {
    BROKER["transport"]: "redis",
    BROKER["host"]: "here",
    BROKER["password"]: "ours",
    RESULT_BACKEND["transport"]: "rediss",
    RESULT_BACKEND["host"]: "there",
}
"""As the operator sets them for a pool that has no `urlFrom`."""


@pytest.mark.parametrize(
    ("arguments", "variables", "fields"),
    [
        (["-b", "redis://elsewhere"], {}, "broker.transport, broker.host, broker.password"),
        (["--result-backend=redis://elsewhere"], {}, "resultBackend.transport, resultBackend.host"),
        ([], {"CELERY_BROKER_READ_URL": "redis://elsewhere"}, "broker.transport, broker.host, broker.password"),
        ([], {"CELERY_BROKER_WRITE_URL": "redis://elsewhere"}, "broker.transport, broker.host, broker.password"),
        ([], {"BROKER_URL": "redis://elsewhere"}, "broker.transport, broker.host, broker.password"),
        ([], {"RESULT_BACKEND": "redis://elsewhere"}, "resultBackend.transport, resultBackend.host"),
    ],
)
def test_an_error_names_the_parts_that_the_pool_gives_and_no_url(
    arguments: list[str], variables: dict[str, str], fields: str
) -> None:
    environ = {**BY_PARTS, **variables}
    set_urls(environ)
    with pytest.raises(MisconfiguredError) as refused:
        check(Arguments.parse(["-A", "proj", "worker", "-P", "eventlet", *arguments]), "eventlet", environ)
    assert fields in refused.value.reason + refused.value.fix
    assert "urlFrom" not in refused.value.reason + refused.value.fix


def test_nothing_changes_without_parts() -> None:
    environ = {"CELERY_BROKER_URL": "redis://elsewhere", BROKER["host"]: "here"}
    before = dict(environ)
    set_urls(environ)
    assert environ == before


def test_the_bytes_of_a_password_count_and_not_what_the_locale_took_them_for() -> None:
    in_ascii = {BROKER["password"]: "\udcc3\udcbc"}
    assert url_of("broker", {**GOOD, **parts(in_ascii)}) == "redis://:%C3%BC@redis/"


def test_the_files_of_secrets_are_read_each_time_and_count_more_than_the_variables(tmp_path: Path) -> None:
    environ = {
        "GREENWORKER_BROKER": "shop/redis:0123456789",
        "GREENWORKER_BROKER_DIRECTORY": str(tmp_path),
        BROKER["transport"]: "redis",
        BROKER["host"]: "redis",
        BROKER["password"]: "first",
    }
    options = Options.read(environ)
    assert options.url() == "redis://:first@redis/"
    for password in ("second/2", "third@3"):
        (tmp_path / "password").write_text(password + "\n")
        assert urlsplit(options.url()).password == {"second/2": "second%2F2", "third@3": "third%403"}[password]
    (tmp_path / "password").write_text("")
    with pytest.raises(MisconfiguredError, match=r"broker\.password"):
        options.url()
    assert "first" not in repr(options)
