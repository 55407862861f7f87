"""One redaction on both sides: no part of a password leaves, in whatever URL it stands, and no text costs more than its
length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import greenfleet.redaction
import greenworker.redaction

Redact = Callable[[str], str]
BOTH = pytest.mark.parametrize(
    "redact", [greenworker.redaction.redacted, greenfleet.redaction.redacted], ids=["worker", "operator"]
)

TABLE = {
    "": "",
    "plain": "plain",
    "redis://host/0": "redis://host/0",
    "see http://host:8080/path?x=1, or https://[::1]:9090": "see http://host:8080/path?x=1, or https://[::1]:9090",
    "mail me@example.com": "mail me@example.com",
    "cannot reach redis://user:pass@host:6379/0: refused": "cannot reach redis://***@host:6379/0: refused",
    "amqp://a:b@h//;amqp://c:d@g//": "amqp://***@g//",
    "redis://:pass word@host/0 is down": "redis://***@host/0 is down",
    "redis://:hunter2/s3cret@host": "redis://***@host",
    "first\nredis://:a@h\nlast a@b": "first\nredis://***@h\nlast a@b",
    "redis://:hunter2": "redis://***",
    "redis://host?password=hunter2&x=1": "redis://host?password=***",
    "redis://h/0?sentinel_password=hunter2": "redis://h/0?sentinel_password=***",
    "host=db password=hunter2 user=me": "host=db password=*** user=me",
    "{'password': 'hunter 2', 'host': 'h'}": "{'password': '***', 'host': 'h'}",
    'secret "broker" not found': 'secret "broker" not found',
    "https://prometheus:9090/api: 401": "https://prometheus:9090/api: 401",
    "between 0 and limit - 1, not :s3cret@127.0.0.1:2/0": "between 0 and limit - 1, not :***@127.0.0.1:2/0",
    "not '/:s3c/r@t:x@redis/0' but a number": "not '/:***@redis/0' but a number",
    "vhost=u:s3cret@[::1]:5672//, refused": "vhost=u:***@[::1]:5672//, refused",
    "NOT_ALLOWED - vhost u:s3cret@rabbit/ not found": "NOT_ALLOWED - vhost u:***@rabbit/ not found",
    "no :s3cret@a of redis://:s3cret@b/0": "no :***@a of redis://***@b/0",
    "at u:a=:s3cret@a:1": "at u:***@a:1",
    "no u:s3cret@a:1 and redis://b/0": "no u:***@a:1 and redis://b/0",
}

ORDINARY = [
    'Back-off pulling image "ghcr.io/feeds/app:1.2@sha256:0123456789abcdef0123456789abcdef"',
    "pulling registry:5000/app@sha256:0123456789abcdef for https://registry:5000",
    "worker: celery@feeds-7f3a ready", '{"worker":"celery@feeds-7f3a","n":1}', "{'hostname': 'celery@feeds'}",
    "10:30:05:celery@feeds-7f3a ready", "[INFO]:celery@feeds", "from mailto:me@example.com, at 10:30",
    "git@github.com:feeds/app.git", "celery@feeds.celery.pidbox", "a::b @c :d", "ratio 1:2 @ 3/4", "me@x: see a:b",
]  # fmt: skip
"""What has a colon and an ``@`` and no password."""

SCHEMES = st.sampled_from(["redis", "rediss", "amqp", "amqps", "sentinel", "db+postgresql", "https", "REDIS"])
ODD = st.sampled_from(list("/?#@:;%&='\" []{}<>\\,|\t"))
PASSWORDS = st.text(st.one_of(st.sampled_from("QJXZ"), ODD), min_size=1, max_size=24)
"""Of letters that stand nowhere else in a text here, and of what breaks a URL. A line's end is not in it."""
FORMS = st.sampled_from(
    ["{}", "cannot connect to {}: refused", "'{}'", '{{"url": "{}"}}', "x={}\nnext", "{} or {}", "(see http://x/y) {}"]
)


def fragments_of(password: str) -> set[str]:
    return {password[at : at + 4] for at in range(len(password) - 3)} | ({password} if len(password) < 4 else set())


@BOTH
@pytest.mark.parametrize("text", TABLE)
def test_both_sides_say_the_same(redact: Redact, text: str) -> None:
    assert redact(text) == TABLE[text]


@BOTH
@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(redact: Redact, text: str) -> None:
    assert redact(text) == text


def test_both_sides_have_the_same_code() -> None:
    worker, operator = (
        Path(module.__file__).read_text(encoding="utf-8").split("from __future__", maxsplit=1)[1]
        for module in (greenworker.redaction, greenfleet.redaction)
    )
    assert worker == operator


@BOTH
@settings(max_examples=300)
@given(scheme=SCHEMES, user=st.sampled_from(["", "feeder", "a b"]), password=PASSWORDS, form=FORMS)
def test_no_part_of_a_password_survives_in_any_url(
    redact: Redact, scheme: str, user: str, password: str, form: str
) -> None:
    url = f"{scheme}://{user}:{password}@host:6379/0"
    shown = redact(form.format(*[url] * form.count("{}")))
    kept = [part for part in fragments_of(password) if len(re.sub(r"[^QJXZ]", "", part)) and part in shown]
    assert not kept, shown


@BOTH
@settings(max_examples=300)
@given(
    user=st.sampled_from(["", "feeder"]),
    password=PASSWORDS.filter(lambda text: not re.search(r"""[\s"'`]|://""", text)),
    form=st.sampled_from(["{}", "not {}", "not '{}'", "x={}\nnext", "{} or redis://{}", "(see {})"]),
)
def test_no_part_of_a_password_survives_in_a_url_without_its_scheme(
    redact: Redact, user: str, password: str, form: str
) -> None:
    """As redis-py and RabbitMQ quote what they take for a database or a virtual host."""
    url = f"{user}:{password}@host:6379/0"
    shown = redact(form.format(*[url] * form.count("{}")))
    kept = [part for part in fragments_of(password) if len(re.sub(r"[^QJXZ]", "", part)) and part in shown]
    assert not kept, shown


@BOTH
@settings(max_examples=300)
@given(
    scheme=SCHEMES,
    name=st.sampled_from(["password", "PASSWORD", "passwd", "redis_password", "token"]),
    password=PASSWORDS,
)
def test_no_part_of_a_password_survives_in_a_query(redact: Redact, scheme: str, name: str, password: str) -> None:
    shown = redact(f"no answer from {scheme}://host/0?x=1&{name}={password}")
    assert not [part for part in fragments_of(password) if re.search("[QJXZ]", part) and part in shown], shown


HOSTILE = [
    "://",
    "a://b:c",
    "@",
    "://@",
    "password",
    "password=",
    "password'",
    "password: ",
    "?password=",
    "://:",
    "[",
    "x=1&",
    "'",
    " ",
    ":",
    ":a@",
    "a:b@c:1/",
    "=:",
]


@BOTH
@pytest.mark.parametrize("piece", HOSTILE)
def test_ten_times_the_text_costs_no_more_than_some_ten_times_the_time(redact: Redact, piece: str) -> None:
    """A ratio, of the best of several: a quadratic pattern has a ratio of a hundred."""

    def cost(repeated: int) -> float:
        text = piece * repeated
        best = float("inf")
        for _ in range(4):
            began = process_time()
            for _ in range(5):
                redact(text)
            best = min(best, process_time() - began)
        return best

    assert cost(5_000 // len(piece) * 10) < 40 * max(cost(5_000 // len(piece)), 1e-4)


@BOTH
def test_what_is_too_long_is_cut(redact: Redact) -> None:
    shown = redact("x" * 1_000_000 + "redis://:hunter2@h")
    assert len(shown) < 70_000
    assert "hunter2" not in shown
