"""The URL of a broker or a result backend, from parts that each have a variable or a file of their own: transport,
host, port, path, username, password. Secrets hold them as they are; percent-encoding is done here. Standard library
only.

No error quotes a part: a whole URL may stand where a host is expected, with its password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import quote

from greenworker.brokers.url import tidy, tidy_backend
from greenworker.misconfigured import MisconfiguredError

BROKER = {
    "transport": "GREENWORKER_BROKER_TRANSPORT",
    "host": "GREENWORKER_BROKER_HOST",
    "port": "GREENWORKER_BROKER_PORT",
    "path": "GREENWORKER_BROKER_PATH",
    "username": "GREENWORKER_BROKER_USERNAME",
    "password": "GREENWORKER_BROKER_PASSWORD",
}
"""The variable of each part of the broker's URL; docs/contract.md."""

RESULT_BACKEND = {
    "transport": "GREENWORKER_RESULT_BACKEND_TRANSPORT",
    "host": "GREENWORKER_RESULT_BACKEND_HOST",
    "port": "GREENWORKER_RESULT_BACKEND_PORT",
    "path": "GREENWORKER_RESULT_BACKEND_PATH",
    "username": "GREENWORKER_RESULT_BACKEND_USERNAME",
    "password": "GREENWORKER_RESULT_BACKEND_PASSWORD",
}
"""The same for the result backend."""

BROKER_PARTS, RESULT_BACKEND_PARTS = "GREENWORKER_BROKER_PARTS", "GREENWORKER_RESULT_BACKEND_PARTS"
"""Variables that name the parts that the pool gives, comma separated: others come from the image or from `envFrom`, and
do not count. Where such a variable is not set, all parts that are there do.
"""

TRANSPORTS = ("redis", "rediss", "amqp", "amqps")
"""Of brokers. Sentinels, and several brokers for failover, need a whole URL."""

_HIDDEN = "(not shown)"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?", re.ASCII)
_TRANSPORT = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)


OWN_NAMES = {"CELERY_BROKER_URL": "BROKER_URL", "CELERY_RESULT_BACKEND": "RESULT_BACKEND"}
"""Variables of the app that Celery's command line also takes for its own options (`-b`, `--result-backend`), by the
variable that they override.
"""


def set_urls(environ: MutableMapping[str, str]) -> None:
    """Write the URLs where Celery, the app and the startup checks look for them, those that are given by parts too, and
    as libraries can read them: see `greenworker.brokers.url.split`. Raises `MisconfiguredError`.
    """
    _make_of_parts(environ)
    for field, url in (("broker", "CELERY_BROKER_URL"), ("resultBackend", "CELERY_RESULT_BACKEND")):
        if url not in environ:
            continue
        given, tidied = environ[url], (tidy if field == "broker" else tidy_backend)
        environ[url] = tidied(given)
        if not environ[url] and (given or field == "broker"):  # an image may have an empty CELERY_RESULT_BACKEND
            raise MisconfiguredError(f"{field}.urlFrom", "", "it is empty", "write the URL into that key of the Secret")
        own = OWN_NAMES[url]
        if environ.get(own) and tidied(environ[own]) == environ[url]:
            environ[own] = environ[url]


def _make_of_parts(environ: MutableMapping[str, str]) -> None:
    for field, variables, url in (
        ("broker", BROKER, "CELERY_BROKER_URL"),
        ("resultBackend", RESULT_BACKEND, "CELERY_RESULT_BACKEND"),
    ):
        if not has_parts(environ, variables):
            continue
        made = url_of(field, parts(environ, variables))
        if environ.get(url) not in (None, "", made):  # what was made already: Python may have been started once more
            raise MisconfiguredError(
                "worker.env", variables["transport"], f"{url} is there too, and one of them would go around {field}",
                f"set {field}.urlFrom or its parts, and remove the variable from the image and worker.envFrom",
            )  # fmt: skip
        environ[url] = made


def has_parts(environ: Mapping[str, str], variables: Mapping[str, str] = BROKER) -> bool:
    """Whether a URL is given by parts."""
    return "transport" in _given(environ, variables)


def _given(environ: Mapping[str, str], variables: Mapping[str, str]) -> list[str]:
    """The parts that have a variable which counts."""
    listed = environ.get(RESULT_BACKEND_PARTS if variables == RESULT_BACKEND else BROKER_PARTS)
    there = [part for part, variable in variables.items() if variable in environ]
    return there if listed is None else [part for part in there if part in listed.split(",")]


def broker_field(part: str) -> str:
    """The field of the resource that holds a *part* of the broker's URL, in this process."""
    return f"broker.{part}" if has_parts(os.environ) else "broker.urlFrom"


def url_fields(field: str, environ: Mapping[str, str]) -> str:
    """The fields of the resource, comma separated, that hold the URL of *field* (`broker` or `resultBackend`)."""
    variables = BROKER if field == "broker" else RESULT_BACKEND
    if not has_parts(environ, variables):
        return f"{field}.urlFrom"
    return ", ".join(f"{field}.{part}" for part in parts(environ, variables))


def parts(
    environ: Mapping[str, str], variables: Mapping[str, str] = BROKER, directory: Path | None = None
) -> dict[str, str]:
    """The parts that are given. A file in *directory* that is called as a part counts more than the variable: it
    follows its Secret, and the variable says what the Secret held when the pod started. Raises OSError.
    """
    found = {part: environ[variables[part]] for part in _given(environ, variables)}
    if directory is not None:
        for part in variables:
            with suppress(FileNotFoundError):
                found[part] = os.fsdecode((directory / part).read_bytes())
    return found


def url_of(field: str, given: Mapping[str, str]) -> str:
    """The URL of *field* (`broker` or `resultBackend`). Raises `MisconfiguredError`."""
    text = {part: _text(f"{field}.{part}", value) for part, value in given.items()}
    transport = text.get("transport", "")
    if not _TRANSPORT.fullmatch(transport) or (field == "broker" and transport not in TRANSPORTS):
        fix = f"use one of {', '.join(TRANSPORTS)}"
        if field == "resultBackend":
            fix = "use the scheme of its URL in lower case, such as redis, rediss or db+postgresql"
        raise MisconfiguredError(f"{field}.transport", _HIDDEN, "this worker knows no such transport", fix)
    path = text.get("path", "")
    if transport in ("redis", "rediss") and path and not re.fullmatch("[0-9]{1,9}", path, re.ASCII):
        raise MisconfiguredError(
            f"{field}.path", _HIDDEN, "on Redis it is the number of a database", "use a number such as 0"
        )
    user = quote(text["username"], safe="") if "username" in text else ""
    password = f":{quote(text['password'], safe='')}" if "password" in text else ""
    login = f"{user}{password}@" if user or password else ""
    address = _host(field, text.get("host", "")) + _port(field, text.get("port"))
    return f"{transport}://{login}{address}/{quote(path, safe='')}"


def _text(field: str, value: str) -> str:
    """Without the line break that `echo` and editors leave at the end."""
    value = value.rstrip("\r\n")
    if not value:
        raise MisconfiguredError(field, "", "it is empty", "fill that key of the Secret, or remove the field")
    try:  # the bytes, whatever the locale took them for
        return os.fsencode(value).decode()
    except UnicodeError:
        raise MisconfiguredError(
            field, _HIDDEN, "it is no text in UTF-8", "write it as text: `kubectl create secret` encodes it itself"
        ) from None


def _host(field: str, host: str) -> str:
    if _HOST.fullmatch(host):
        return host
    try:
        return f"[{IPv6Address(host.removeprefix('[').removesuffix(']').replace('%', ' '))}]"  # no zones in URLs
    except ValueError:
        raise MisconfiguredError(
            f"{field}.host", _HIDDEN, "it is neither a host name nor an address",
            "write the name alone, such as redis.shop.svc; a key that holds a whole URL belongs in "
            f"{field}.urlFrom",
        ) from None  # fmt: skip


def _port(field: str, port: str | None) -> str:
    if port is None:
        return ""
    if not re.fullmatch("[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65_536:
        raise MisconfiguredError(f"{field}.port", _HIDDEN, "it is not a number from 1 to 65535", "write the number")
    return f":{int(port)}"
