"""The URLs of a broker or a result backend as people write them: what is made of them, and whether they can be read,
asked before any library does. The libraries' errors quote what they cannot read, and that is often a part of the
password. Standard library only.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from greenworker.misconfigured import MisconfiguredError

REDIS = ("redis", "rediss", "sentinel")
AMQP = ("amqp", "pyamqp", "amqps")
SUPPORTED = (*REDIS, *AMQP)
"""Schemes of the brokers that this worker has a transport for."""

UNREADABLE = "the URL cannot be read (it may hold a password, and is not shown)"
FIX = (
    "write %2F for /, %23 for #, %3F for ?, %40 for @ and %3B for ; in its user and password, a number for the port, "
    "; between several URLs, and a scheme such as redis:// before each"
)
"""What to do about `UNREADABLE`. An ``@`` after ``://`` would be taken for the end of a password, and hidden."""


def split(urls: str) -> list[str]:
    """The URLs of a list with ``;`` between them. Libraries take blanks and line breaks around a URL for a part of it,
    and then its password for something else: they are dropped, and so is what is empty. Schemes come in lower case.
    """
    return [_with_lower_scheme(each.strip()) for each in urls.split(";") if each.strip()]


def _with_lower_scheme(url: str) -> str:
    scheme, found, rest = url.partition("://")
    return f"{scheme.lower()}{found}{rest}" if found else url


def tidy(urls: str) -> str:
    """The list as `split` reads it, with ``;`` alone between its URLs. Nobody reads a broker's URLs in another form."""
    return ";".join(split(urls))


def tidy_backend(url: str) -> str:
    """The same for a result backend. Those that are not Redis have forms of their own, also with ``;``."""
    return url.strip() if _is_of_another_kind(url) else tidy(url)


def is_readable(url: str) -> bool:
    """False for a URL, or one of several with ``;`` between them, without a scheme, with a port that is no number, with
    a second ``://``, or with an ``@`` after the host: what stands before it is then the end of a password with an
    unescaped ``/``, ``#`` or ``?``.
    """
    urls = split(url)
    try:
        for each in urls:
            found = urlsplit(each)
            _ = found.port
            if "@" in found.path + found.query + found.fragment or "://" in found.netloc + found.path:
                return False
    except ValueError:
        return False
    return bool(urls) and all("://" in each for each in urls)


def is_readable_backend(url: str) -> bool:
    """The same for a result backend. Those that are not Redis have addresses of their own kinds: several hosts, or
    none.
    """
    return not split(url) or _is_of_another_kind(url) or is_readable(url)


def _is_of_another_kind(url: str) -> bool:
    """Whether this is a result backend that is not Redis."""
    return any(each.split(":", maxsplit=1)[0].split("+", maxsplit=1)[0].lower() not in REDIS for each in split(url)[:1])


def unsupported_scheme(url: str) -> str | None:
    """The first scheme, of one URL or of several with ``;`` between them, that this worker has no transport for."""
    schemes = [each.split("://", maxsplit=1)[0] for each in split(url)]
    return next((scheme for scheme in schemes if scheme.split("+", maxsplit=1)[0] not in SUPPORTED), None)


def unsupported(scheme: str) -> MisconfiguredError:
    """The error for a *scheme* that `unsupported_scheme` found."""
    return MisconfiguredError(
        "broker.urlFrom", f"{scheme}://…", "this worker speaks to Redis and to RabbitMQ",
        "use redis://, rediss://, sentinel://, amqp:// or amqps:// in each URL, or run this app on a stock "
        "Celery worker",
    )  # fmt: skip


def check_one_scheme(urls: str) -> None:
    """Raises `MisconfiguredError` for a list whose URLs differ in their schemes. A worker sets up transport,
    certificates and acknowledgements for the first; with ``redis://…;rediss://…`` kombu would send the second one its
    password without a look at its certificate.
    """
    schemes = [each.split("://", maxsplit=1)[0] for each in split(urls)]
    if len({_SAME.get(scheme, scheme) for scheme in schemes}) > 1:
        raise MisconfiguredError(
            "broker.urlFrom", ";".join(f"{scheme}://…" for scheme in schemes),
            "the URLs have different schemes, and the worker would treat all brokers as the first: a certificate "
            "might not be checked",
            "use one scheme in all URLs, with TLS rediss:// or amqps://; to move to TLS, change all of them at once",
        )  # fmt: skip


_SAME = {"pyamqp": "amqp"}
"""Schemes that are another name for one."""


def check_one_backend(urls: str) -> None:
    """Raises `MisconfiguredError` for several URLs of a result backend, which Celery reads for Sentinels only: of any
    other list it makes one URL, whose database has the next password in it.
    """
    schemes = [] if _is_of_another_kind(urls) else [each.split("://", maxsplit=1)[0] for each in split(urls)]
    if len(schemes) > 1 and {*schemes} != {"sentinel"}:
        raise MisconfiguredError(
            "resultBackend.urlFrom", ";".join(f"{scheme}://…" for scheme in schemes),
            "Celery takes one URL for a result backend on Redis, or several of Sentinels",
            "keep one of the URLs, or use sentinel:// in each",
        )  # fmt: skip


def check_tls_options(urls: str, field: str) -> None:
    """Raises `MisconfiguredError` for options for TLS in a query (``?ssl_…=…``) that would not count, or not as they
    are meant. *field*: `broker` or `resultBackend`.

    Only ``rediss://`` has them. On ``redis://`` and ``sentinel://`` kombu would speak TLS, without a look at the host
    name and without TLS to the Sentinels; on a socket, and with ``ssl=true``, it would not. Celery refuses them with a
    traceback, for RabbitMQ they are unknown, and the exporter would speak without TLS.
    """
    if field == "resultBackend" and _is_of_another_kind(urls):
        return
    for url in split(urls):
        scheme = url.split("://", maxsplit=1)[0]
        for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
            if re.fullmatch("ssl(_.*)?", name, re.IGNORECASE) is None:
                continue
            known = _TLS_VALUES.get(name)
            if scheme != "rediss" or name == "ssl" or name != name.lower():
                raise MisconfiguredError(
                    f"{field}.urlFrom", f"{scheme}://…?{name}", "only rediss:// has options for TLS, whose names begin "
                    "with ssl_: this one would not count, or a certificate might not be checked",
                    _TLS_FIX.get(scheme.split("+", maxsplit=1)[0], _TLS_FIX["redis"]).format(field=field),
                )  # fmt: skip
            if known is not None and value not in known:
                raise MisconfiguredError(
                    f"{field}.urlFrom", f"{scheme}://…?{name}={value}", "the libraries for Redis know no such value",
                    f"use {' or '.join(known[:2])}, or remove the option, and name the CA in {field}.caSecretRef",
                )  # fmt: skip


_TLS_VALUES = {
    "ssl_cert_reqs": ("required", "none", "optional", "CERT_REQUIRED", "CERT_NONE", "CERT_OPTIONAL"),
    "ssl_check_hostname": ("true", "false", "True", "False"),
}
_TLS_FIX = {
    "redis": "use rediss:// without the option, and name the CA in {field}.caSecretRef; or remove the option",
    "sentinel": "remove the option: Sentinels and their masters are spoken to without TLS",
    **dict.fromkeys(AMQP, "use amqps:// without the option, and name the CA in {field}.caSecretRef"),
}
"""By scheme."""


def check_options(urls: str) -> None:
    """Raises `MisconfiguredError` for an option in the query of a broker's URL that kombu does not know: it makes an
    argument of each, and ends with a TypeError. Those for TLS are for `check_tls_options`. On a socket kombu reads the
    query itself, and one without a value it drops.
    """
    for url in split(urls):
        scheme = url.split("://", maxsplit=1)[0]
        if "+" in scheme:
            continue
        known = _OPTIONS.get(scheme, _OPTIONS["redis"])
        for name, _ in parse_qsl(urlsplit(url).query):
            if name not in known and not name.startswith("ssl_"):
                raise MisconfiguredError(
                    "broker.urlFrom", f"{scheme}://…?{name}",
                    f"a broker's URL has no such option; those of {scheme}:// are {', '.join(sorted(known))}",
                    "remove it from the URL; other options belong in the app's settings (broker_transport_options)",
                )  # fmt: skip


_EACH = frozenset({"heartbeat", "login_method", "insist", "credential_provider"})
_OPTIONS = {
    "redis": _EACH | {"connect_timeout"},
    "sentinel": _EACH | {"connect_timeout", "master_name"},
    **dict.fromkeys(AMQP, _EACH),  # py-amqp fails on the text of connect_timeout, which it takes for a number
}
"""What a query may say besides TLS, by scheme: arguments of kombu's Connection, and `without_master_name`."""


def needs_redis(url: str) -> bool:
    """Whether this broker or result backend is Redis, also by a socket (``redis+socket://``) or with a class of the
    app's own (``proj.Backend+redis://``).
    """
    scheme = url.strip().split("://", maxsplit=1)[0].lower()
    return any(part in REDIS for part in scheme.split("+"))


def without_master_name(url: str) -> tuple[str, str]:
    """The URL without ``?master_name=``, and the name. The exporter reads it there; kombu wants it among its
    options.
    """
    found = re.findall(r"[?&]master_name=([^&;]*)", url) if url.startswith("sentinel://") else []
    if not found:
        return url, ""
    stripped = re.sub(r"master_name=[^&;]*&?", "", url)
    return re.sub(r"[?&](?=;|$)", "", stripped), unquote(found[0])
