"""TLS towards the broker and the result backend: certificate and host name are checked, unless the resource, the URL or
the app says otherwise.

kombu checks nothing on ``rediss://`` and no host name on ``amqps://`` by itself, and the password is the first thing
that it sends.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

_UNCHECKED = frozenset({"none", "cert_none"})
_WISH = "ssl_cert_reqs"


@dataclass(frozen=True)
class Trust:
    """Whom to believe."""

    ca_file: Path | None = None
    """The authorities. None: the image's own bundle, as OpenSSL finds it (`SSL_CERT_FILE` names another)."""
    skip_verify: bool = False
    """True: anybody."""


def redis_options(trust: Trust) -> dict[str, Any]:
    """As redis-py's connections and kombu's ``ssl`` want it. The host name is checked in every version of redis-py."""
    if trust.skip_verify:
        return {_WISH: ssl.CERT_NONE, "ssl_check_hostname": False}
    authority = {"ssl_ca_certs": str(trust.ca_file)} if trust.ca_file is not None else {}
    return {_WISH: ssl.CERT_REQUIRED, "ssl_check_hostname": True, **authority}


def amqp_options(trust: Trust) -> dict[str, Any]:
    """As kombu's ``ssl`` wants it for AMQP. The host name is that of each connection: see `check_host_names`."""
    if trust.skip_verify:
        return {"cert_reqs": ssl.CERT_NONE}
    authority = {"ca_certs": str(trust.ca_file)} if trust.ca_file is not None else {}
    return {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None, **authority}


def wishes(url: str) -> dict[str, str]:
    """What one Redis URL says about TLS itself (``?ssl_…=…``)."""
    query = url.partition("?")[2]
    return {name: value for name, value in parse_qsl(query) if name.startswith("ssl_")}


def checks(options: Any) -> bool:
    """Whether *options*, of kombu's ``ssl`` or a URL's wishes, have the certificate checked; those that do not say so
    do.
    """
    if not isinstance(options, dict):
        return True
    wish = options.get(_WISH, options.get("cert_reqs", ssl.CERT_REQUIRED))
    return wish not in (None, ssl.CERT_NONE) and str(wish).lower() not in _UNCHECKED


def checks_name(options: Any) -> bool:
    """Whether they leave the check of the host name on."""
    return not isinstance(options, dict) or str(options.get("ssl_check_hostname", True)).lower() != "false"


def all_check(urls: str) -> bool:
    """Whether none of one or several URLs turns the check off."""
    return all(checks(wishes(url)) for url in urls.split(";"))


def completed(url: str, trust: Trust) -> str:
    """*url* (or several) with what its own wishes leave open. kombu forgets every other option where the URL has one; a
    URL without any stays as it is.
    """
    return ";".join(_completed(part, trust) for part in url.split(";"))


def _completed(url: str, trust: Trust) -> str:
    said = wishes(url)
    if not url.startswith("rediss://") or not said or not checks(said):
        return url
    wanted = {_WISH: "CERT_REQUIRED", "ssl_check_hostname": "true"}
    if trust.ca_file is not None:
        wanted["ssl_ca_certs"] = str(trust.ca_file)
    return url + "".join(f"&{name}={quote(value)}" for name, value in wanted.items() if name not in said)


def check_host_names() -> None:
    """From now on ``amqps://`` connections of this process with the option ``server_hostname: None`` check the name
    that they connect to, each its own. kombu fills it in once, and calls ``localhost`` by its address.
    """
    from kombu.transport import TRANSPORT_ALIASES  # noqa: PLC0415 - not before patching

    TRANSPORT_ALIASES["amqps"] = "greenworker.brokers.amqp.tls:SSLTransport"


def warning(what: str, because: str, unchecked: str = "its certificate is") -> str:
    """For the log, where nothing is checked."""
    return (
        f"{what}: {unchecked} not checked ({because}), so that whoever answers in its place gets the "
        "password: name the CA in "
        f"{what.split(' ', maxsplit=1)[0]}.caSecretRef instead"
    )
