"""One URL or several with ``;`` between them, as people write them into Secrets: what the worker, its companion and the
exporter make of them, and what is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu.connection import Connection
from kombu.utils.url import url_to_parts

from greenworker.bootstrap.settings import secure_broker
from greenworker.bootstrap.startup_checks import Arguments, check
from greenworker.brokers.parts import set_urls
from greenworker.brokers.redis.kind import RedisKind
from greenworker.brokers.url import is_readable, split, tidy, without_master_name
from greenworker.environment import Environment
from greenworker.exporter.connect import connect
from greenworker.exporter.exporter import Options
from greenworker.exporter.redis import tls_options
from greenworker.misconfigured import MisconfiguredError
from greenworker.tls import Trust, all_check

GOOD = ["-A", "proj", "worker", "-P", "eventlet", "-Q", "feeds"]
A, B = "redis://:s3cret@a:6379/0", "redis://:s3cret@b:6379/1"

AS_PEOPLE_WRITE_IT = {
    f"{A}; {B}": f"{A};{B}",
    f"{A};\n{B}": f"{A};{B}",
    f"{A};\r\n{B}\r\n": f"{A};{B}",
    f"{A};": A,
    f";{A};;{B} ; ": f"{A};{B}",
    f"\t{A}\n": A,
    f"  {A} ;\u00a0{B}": f"{A};{B}",
    "REDISS://:s3cret@A:6379/0": "rediss://:s3cret@A:6379/0",
    "Sentinel://a:1; SENTINEL://b:2/0?master_name=M": "sentinel://a:1;sentinel://b:2/0?master_name=M",
    "amqp://u:s3cret@a//;\namqp://u:s3cret@b//": "amqp://u:s3cret@a//;amqp://u:s3cret@b//",
}


def started(**environ: str) -> dict[str, str]:
    """The environment after what the launcher does with it, up to Celery."""
    set_urls(environ)
    check(Arguments.parse(GOOD), "eventlet", environ)
    return environ


@pytest.mark.parametrize("written", AS_PEOPLE_WRITE_IT)
def test_blanks_line_breaks_and_empty_members_do_not_count(written: str, tmp_path: Path) -> None:
    """For the worker and the exporter alike."""
    wanted = AS_PEOPLE_WRITE_IT[written]
    assert started(CELERY_BROKER_URL=written)["CELERY_BROKER_URL"] == wanted
    (tmp_path / "url").write_bytes(written.encode())
    options = Options.read({"GREENWORKER_BROKER": "ns/b", "GREENWORKER_BROKER_URL_FILE": str(tmp_path / "url")})
    assert options.url() == wanted


@given(st.lists(st.tuples(st.text(" \t\r\n", max_size=3), st.sampled_from([A, B, ""]), st.text(" \n", max_size=2))))
def test_kombu_finds_every_password_where_it_belongs(members: list[tuple[str, str, str]]) -> None:
    urls = tidy(";".join(before + url + after for before, url, after in members))
    assert split(urls) == [url for _, url, _ in members if url]
    for url in Connection(urls).alt if ";" in urls else []:
        read = url_to_parts(url)
        assert (read.scheme, read.password, read.hostname) == ("redis", "s3cret", url[16])


@pytest.mark.parametrize("written", ["redis://:s3cret@h/1;", " redis://:s3cret@h/1\n", "REDIS://:s3cret@h/1"])
def test_the_result_backend_is_read_in_the_same_way(written: str) -> None:
    found = started(CELERY_BROKER_URL=A, CELERY_RESULT_BACKEND=written)
    assert found["CELERY_RESULT_BACKEND"] == "redis://:s3cret@h/1"


@pytest.mark.parametrize(
    "url", ["cache+memcached://one:11211;two:11211/", "db+mssql://u:p@h/x?odbc_connect=DRIVER;SERVER", "rpc://"]
)
def test_a_result_backend_of_another_kind_keeps_its_own_form(url: str) -> None:
    assert started(CELERY_BROKER_URL=A, CELERY_RESULT_BACKEND=url)["CELERY_RESULT_BACKEND"] == url
    assert started(CELERY_BROKER_URL=A, CELERY_RESULT_BACKEND=f"{url}\n")["CELERY_RESULT_BACKEND"] == url


def test_the_apps_own_variables_that_say_the_same_are_read_in_the_same_way() -> None:
    """Celery's command line takes them for its options, and would use them as they are."""
    found = started(CELERY_BROKER_URL=f"{A}; ", BROKER_URL=f"{A}; ", CELERY_RESULT_BACKEND=B, RESULT_BACKEND=f"{B};")
    assert (found["BROKER_URL"], found["RESULT_BACKEND"]) == (A, B)


@pytest.mark.parametrize("blank", ["", " ", ";", "\n;\n"])
def test_a_secret_without_a_url_is_refused_and_the_apps_own_broker_is_not_used(blank: str) -> None:
    with pytest.raises(MisconfiguredError, match="empty") as refused:
        started(CELERY_BROKER_URL=blank)
    assert refused.value.field == "broker.urlFrom"


@pytest.mark.parametrize("blank", [" ", ";", "\n"])
def test_a_secret_without_a_url_of_the_result_backend_is_refused(blank: str) -> None:
    with pytest.raises(MisconfiguredError, match="empty") as refused:
        started(CELERY_BROKER_URL=A, CELERY_RESULT_BACKEND=blank)
    assert refused.value.field == "resultBackend.urlFrom"


@pytest.mark.parametrize(
    "url",
    [f"{A} {B}", f"{A}\n{B}", f"{A},{B}", "redis://a/0\nredis://b/0", "redis://a,redis://b/0", f"{A};s3cret", "s3cret"],
)
def test_urls_with_anything_else_between_them_are_refused_and_not_quoted(url: str) -> None:
    assert not is_readable(url)
    with pytest.raises(MisconfiguredError) as refused:
        started(CELERY_BROKER_URL=url)
    assert refused.value.field == "broker.urlFrom"
    assert "; between several URLs" in refused.value.fix
    assert "s3cret" not in str(refused.value)
    with pytest.raises(ValueError, match="cannot be read") as unread:
        connect(url, Trust())
    assert "s3cret" not in str(unread.value)


@pytest.mark.parametrize("url", ["redis.shop:6379/0", "redis.shop", "//redis.shop:6379/0"])
def test_a_url_without_its_scheme_is_refused_and_the_fix_says_to_write_one(url: str) -> None:
    with pytest.raises(MisconfiguredError) as refused:
        started(CELERY_BROKER_URL=url)
    assert refused.value.field == "broker.urlFrom"
    assert "a scheme such as redis:// before each" in json.loads(refused.value.as_json())["fix"], "nothing of it hidden"
    with pytest.raises(ValueError, match="a scheme such as redis://"):
        connect(url, Trust())


def refused_at_start(urls: str, shown: str) -> MisconfiguredError:
    """What a worker with these *urls* of a broker says, which names no password."""
    with pytest.raises(MisconfiguredError) as refused:
        started(CELERY_BROKER_URL=urls)
    assert (refused.value.field, refused.value.value) == ("broker.urlFrom", shown)
    assert "s3cret" not in str(refused.value)
    return refused.value


MIXED = {
    "redis://:s3cret@old/0;rediss://:s3cret@new/0": "redis://…;rediss://…",
    "rediss://:s3cret@new/0;redis://:s3cret@old/0": "rediss://…;redis://…",
    "amqp://u:s3cret@a//;amqps://u:s3cret@b//": "amqp://…;amqps://…",
    "sentinel://a:1;redis://:s3cret@b/0": "sentinel://…;redis://…",
    "redis://:s3cret@a/0;amqp://u:s3cret@b//": "redis://…;amqp://…",
}


@pytest.mark.parametrize("urls", MIXED)
def test_a_list_of_plain_and_tls_urls_is_refused_in_four_parts(urls: str) -> None:
    """By the exporter too, before it says anything to either."""
    refused = refused_at_start(urls, MIXED[urls])
    assert "certificate" in refused.reason
    assert "one scheme" in refused.fix
    with pytest.raises(MisconfiguredError, match="one scheme"):
        connect(urls, Trust())


def test_two_names_of_one_scheme_may_stand_in_a_list() -> None:
    started(CELERY_BROKER_URL="pyamqp://u:p@a//;amqp://u:p@b//")


@pytest.mark.parametrize("urls", ["redis://:s3cret@a/0;redis://:s3cret@b/0", "sentinel://a:1;rediss://:s3cret@b/0"])
def test_a_list_that_celery_cannot_read_for_results_is_refused_and_not_quoted(urls: str) -> None:
    with pytest.raises(MisconfiguredError, match="one URL") as refused:
        started(CELERY_BROKER_URL=A, CELERY_RESULT_BACKEND=urls)
    assert refused.value.field == "resultBackend.urlFrom"
    assert "s3cret" not in str(refused.value)
    started(CELERY_BROKER_URL=A, CELERY_RESULT_BACKEND="sentinel://a:1; sentinel://b:2/0")


UNCHECKED = "rediss://b?ssl_cert_reqs=none"


@pytest.mark.parametrize(
    ("urls", "own", "warned"),
    [
        (f"rediss://a;{UNCHECKED}", None, "ssl_cert_reqs in its URL"),
        (f"{UNCHECKED};rediss://a", None, "ssl_cert_reqs in its URL"),
        ("rediss://a;rediss://b?ssl_cert_reqs=required", None, ""),
        ("rediss://a;rediss://b?ssl_cert_reqs=required", {"ssl_cert_reqs": "none"}, "broker_use_ssl of the app"),
        ("rediss://b?ssl_cert_reqs=required", {"ssl_cert_reqs": "none"}, ""),
    ],
)
def test_each_url_of_a_list_that_turns_the_check_off_is_warned_of(urls: str, own: object, warned: str) -> None:
    app = Celery("proj", broker=urls, broker_use_ssl=own, set_as_current=False)
    said = secure_broker(app, RedisKind("rediss"), Environment.read({"GREENWORKER_POOL": "ns/feeds"}))
    assert [warned in each for each in said] == [True] * bool(warned)
    assert all_check(urls) == (UNCHECKED not in urls)


TLS_WITHOUT_TLS = {
    "redis://:s3cret@h/0?ssl_cert_reqs=required": "redis://…?ssl_cert_reqs",
    "redis://:s3cret@h/0?ssl_cert_reqs=none&ssl_ca_certs=/ca": "redis://…?ssl_cert_reqs",
    "redis://:s3cret@h/0?ssl=true": "redis://…?ssl",
    "REDIS://:s3cret@h/0?SSL_CA_CERTS=/ca": "redis://…?SSL_CA_CERTS",
    "redis+socket://:s3cret@/run/redis.sock?ssl_ca_certs=/ca": "redis+socket://…?ssl_ca_certs",
    "sentinel://:s3cret@a:1;sentinel://:s3cret@b:2/0?master_name=m&ssl_ca_certs=/ca": "sentinel://…?ssl_ca_certs",
    "rediss://:s3cret@h/0?ssl=true": "rediss://…?ssl",
    "rediss://:s3cret@h/0?ssl_cert_reqs=yes": "rediss://…?ssl_cert_reqs=yes",
    "rediss://:s3cret@h/0?ssl_cert_reqs=Required": "rediss://…?ssl_cert_reqs=Required",
    "rediss://:s3cret@h/0?ssl_cert_reqs=": "rediss://…?ssl_cert_reqs=",
    "rediss://:s3cret@h/0?ssl_check_hostname=no": "rediss://…?ssl_check_hostname=no",
}
"""URLs of Redis with options for TLS that would not count, or not as they are meant, and how they are shown."""


@pytest.mark.parametrize("url", TLS_WITHOUT_TLS)
def test_options_for_tls_that_would_not_count_are_refused_in_four_parts(url: str) -> None:
    """kombu takes those of redis:// for TLS without a check of the host name, ignores them on a socket and ``ssl=true``
    everywhere, and ends with a traceback for a value that it does not know; the exporter ignores them.
    """
    shown = TLS_WITHOUT_TLS[url]
    for field, environ in (
        ("broker", {"CELERY_BROKER_URL": url}),
        ("resultBackend", {"CELERY_BROKER_URL": A, "CELERY_RESULT_BACKEND": url}),
    ):
        with pytest.raises(MisconfiguredError) as refused:
            started(**environ)
        assert (refused.value.field, refused.value.value) == (f"{field}.urlFrom", shown)
        assert f"{field}.caSecretRef" in refused.value.fix or shown.startswith("sentinel")
        assert "s3cret" not in str(refused.value)
    with pytest.raises(MisconfiguredError) as refused:
        connect(url, Trust())
    assert refused.value.value == shown


@pytest.mark.parametrize("scheme", ["amqp", "pyamqp", "amqps"])
def test_options_for_tls_of_redis_are_refused_for_rabbitmq(scheme: str) -> None:
    with pytest.raises(MisconfiguredError) as refused:
        started(CELERY_BROKER_URL=f"{scheme}://u:s3cret@h//?ssl_ca_certs=/ca")
    assert refused.value.value == f"{scheme}://…?ssl_ca_certs"
    assert "amqps://" in refused.value.fix
    assert "broker.caSecretRef" in refused.value.fix


@pytest.mark.parametrize(
    "query",
    [
        *(f"ssl_cert_reqs={value}" for value in ("required", "CERT_REQUIRED", "optional", "none", "CERT_NONE")),
        "ssl_check_hostname=false",
        "ssl_check_hostname=True",
        "ssl_ca_certs=/ca.crt&ssl_certfile=/c&ssl_keyfile=/k",
    ],
)
def test_options_for_tls_count_where_tls_is_spoken(query: str) -> None:
    url = f"rediss://:s3cret@h/0?{query}"
    found = started(CELERY_BROKER_URL=url, CELERY_RESULT_BACKEND=url)
    assert (found["CELERY_BROKER_URL"], found["CELERY_RESULT_BACKEND"]) == (url, url)


UNKNOWN_OPTIONS = {
    "redis://:s3cret@h/0?socket_timeout=s3cret": "redis://…?socket_timeout",
    "rediss://:s3cret@h/0?ssl_cert_reqs=none&db=1": "rediss://…?db",
    "redis://:s3cret@h/0?master_name=M": "redis://…?master_name",
    "redis://:s3cret@a/0;redis://:s3cret@b/0?port=1": "redis://…?port",
    "sentinel://:s3cret@h/0?master_name=M&password=s3cret": "sentinel://…?password",
    "amqp://u:s3cret@h//?heartbeat=30&verify=s3cret": "amqp://…?verify",
    "amqp://u:s3cret@h//?connect_timeout=3": "amqp://…?connect_timeout",
}
"""URLs of brokers with options that kombu does not know, or cannot use, and how they are shown."""


@pytest.mark.parametrize("url", UNKNOWN_OPTIONS)
def test_an_option_in_a_brokers_url_that_nobody_knows_is_refused_in_four_parts(url: str) -> None:
    """kombu makes an argument of it, and ends with a TypeError."""
    assert "remove" in refused_at_start(url, UNKNOWN_OPTIONS[url]).fix
    with pytest.raises(MisconfiguredError) as refused:
        connect(url, Trust())
    assert refused.value.value == UNKNOWN_OPTIONS[url]


@pytest.mark.parametrize(
    "url",
    [
        "amqp://u:p@h//?heartbeat=30&login_method=PLAIN",
        "amqp://u:p@h//?unset=",
        "redis+socket:///run/redis.sock?virtual_host=1",
        "sentinel://a:26379/0?master_name=M;sentinel://b:26379/0",
    ],
)
def test_an_option_that_kombu_knows_or_drops_stays(url: str) -> None:
    started(CELERY_BROKER_URL=url)
    Connection(without_master_name(url)[0])


def test_a_url_that_turns_the_check_of_the_host_name_off_is_warned_of_and_counts_for_the_exporter_too() -> None:
    url = "rediss://:s3cret@h/0?ssl_check_hostname=false"
    app = Celery("proj", broker=url, set_as_current=False)
    [warning] = secure_broker(app, RedisKind("rediss"), Environment.read({"GREENWORKER_POOL": "shop/feeds"}))
    assert "host name" in warning
    assert "ssl_check_hostname in its URL" in warning
    assert tls_options(url, Trust())["ssl_check_hostname"] is False
    assert tls_options("rediss://h/0?ssl_check_hostname=true", Trust())["ssl_check_hostname"] is True
