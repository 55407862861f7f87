"""The administrator's configuration: one YAML file, checked before anything starts.

Prometheus servers and query sources are named here and nowhere else, so that no author of a pool can make the operator
talk to an address of their choice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from greenfleet import __version__
from greenfleet.api.pool import FsGroup, IdOfImage
from greenfleet.api.values import duration_seconds

_SHORTEST_LEASE_SECONDS = 3
_LONGEST_SECONDS = 86_400


class SettingsError(ValueError):
    """The configuration cannot be used; the text names field, value, reason and fix."""


def _checked(text: str) -> str:
    if not 0 < duration_seconds(text) <= _LONGEST_SECONDS:
        raise ValueError(f"{text!r} is not above 0 and up to 24h: choose a duration between them")
    return text


def _long_enough(text: str) -> str:
    if duration_seconds(text) < _SHORTEST_LEASE_SECONDS:
        raise ValueError(
            f"{text!r} is less than {_SHORTEST_LEASE_SECONDS}s, in which no Lease can be renewed: raise it"
        )
    return text


Duration = Annotated[str, AfterValidator(_checked)]


class _Settings(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class BasicAuth(_Settings):
    """Credentials in files, read again whenever they change."""

    username_file: str = ""
    password_file: str = ""


_RESERVED_HEADERS = frozenset(
    {"authorization", "host", "content-length", "content-type", "transfer-encoding", "connection"}
)
_RESERVED_PARAMETERS = frozenset({"query", "time", "timeout"})
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def _check_pair(one: str, ones: str, other: str, others: str) -> None:
    if bool(ones) == bool(others):
        return
    there, value, missing = (one, ones, other) if ones else (other, others, one)
    raise ValueError(f"{there} is {value!r}, and {missing} is empty: they belong together, set both or none")


class Server(_Settings):
    """One Prometheus server."""

    url: str
    """Base URL with its path prefix, without credentials and without a query."""
    headers: dict[str, str] = {}
    """More headers of each request, such as the tenant's `X-Scope-OrgID`. No secrets: those are in files."""
    query_parameters: dict[str, str] = {}
    """More parameters of each request, such as Thanos' `max_source_resolution`."""
    scrape_interval: Duration = "15s"
    """How often this server scrapes our targets: decides what is stale and how long windows are."""
    timeout: Duration = "4s"
    ca_file: str = ""
    cert_file: str = ""
    """The operator's own certificate for mutual TLS, with `key_file`."""
    key_file: str = ""
    insecure_skip_verify: bool = False
    bearer_token_file: str = ""
    basic_auth: BasicAuth = BasicAuth()

    @field_validator("url")
    @classmethod
    def _is_a_base(cls, url: str) -> str:
        if "?" in url or "#" in url:
            raise ValueError(
                "a base URL ends before `?` and `#`, since the path of each request is appended: write the "
                "parameters in "
                "queryParameters"
            )
        if not re.fullmatch(r"https?://[^\s@]+", url):
            raise ValueError(
                "it has to be a base URL such as http://prometheus.monitoring:9090/prefix, without credentials: "
                "those are in "
                "bearerTokenFile or basicAuth"
            )
        return url

    @field_validator("headers")
    @classmethod
    def _can_be_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if name.lower() in _RESERVED_HEADERS:
                raise ValueError(
                    f"{name!r} cannot be set here: use bearerTokenFile or basicAuth for credentials, and leave out "
                    "the others"
                )
            if not _HEADER_NAME.fullmatch(name) or not value.isprintable():
                raise ValueError(
                    f"{name!r} is not the name of a header, or its value has characters that no header may have: "
                    "correct it"
                )
        return headers

    @field_validator("query_parameters")
    @classmethod
    def _are_not_ours(cls, parameters: dict[str, str]) -> dict[str, str]:
        for name in sorted(_RESERVED_PARAMETERS & parameters.keys()):
            raise ValueError(f"{name!r} is set by the operator in each request: remove it")
        return parameters

    @model_validator(mode="after")
    def _is_consistent(self) -> Server:
        auth = self.basic_auth
        _check_pair("certFile", self.cert_file, "keyFile", self.key_file)
        _check_pair("basicAuth.usernameFile", auth.username_file, "basicAuth.passwordFile", auth.password_file)
        if self.cert_file and not self.url.startswith("https:"):
            raise ValueError("certFile is set and the url does not begin with https: remove it, or use https")
        if self.bearer_token_file and auth.username_file:
            raise ValueError(
                "bearerTokenFile and basicAuth are both set, and a request has one Authorization: remove one"
            )
        return self


class Source(_Settings):
    """One way to read the depth of all queues with one query."""

    selector: str = ""
    """A plain series selector, such as `my_depth{job="x"}`: no function and no operator, for the operator asks for its
    samples with their times. May be left out for a built-in source, whose own it has then.
    """
    queue_label: str = "queue"
    namespaces: list[str] = []
    """Namespaces whose targets may speak for the queues of any pool, by the target label `namespace`; "" means targets
    without that label. All others speak for pools of their own namespace only.
    """


BUILT_IN_SOURCES: dict[str, Source] = {
    # Our own exporter serves this name too, for dashboards, and says which broker it speaks of.
    "celery-exporter": Source(selector="celery_queue_length{broker=''}", queue_label="queue_name"),
    "rabbitmq": Source(selector="rabbitmq_queue_messages_ready", queue_label="queue"),
    "redis-exporter": Source(selector="redis_key_size", queue_label="key"),
}
"""Sources that every operator knows. A source of the same name in the configuration takes their place, field by
field.
"""


class Prometheus(_Settings):
    """Where samples come from."""

    default_server: str = "default"
    servers: dict[str, Server] = {"default": Server(url="http://prometheus:9090")}
    sources: dict[str, Source] = {}
    """Sources besides the built-in ones."""
    allow_query: bool = False
    """Whether a pool may bring its own PromQL (`scaling.prometheus.query`)."""
    verify_namespace: bool = True
    """Believe a sample only if the target label `namespace` agrees with the namespace that the sample speaks of."""

    @field_validator("sources")
    @classmethod
    def _have_selectors(cls, sources: dict[str, Source]) -> dict[str, Source]:
        return {name: _completed(name, source) for name, source in sources.items()}

    def source(self, name: str) -> Source | None:
        """The source of that name, configured or built in."""
        return self.sources.get(name) or BUILT_IN_SOURCES.get(name)

    @model_validator(mode="after")
    def _default_exists(self) -> Prometheus:
        if self.default_server not in self.servers:
            known = ", ".join(sorted(self.servers)) or "none"
            raise ValueError(
                f"prometheus.defaultServer is {self.default_server!r}, which is not among the servers ({known}): "
                "name one of them, or add it under prometheus.servers"
            )
        return self


def _completed(name: str, source: Source) -> Source:
    if source.selector:
        return source
    built_in = BUILT_IN_SOURCES.get(name)
    if built_in is None:
        raise ValueError(
            f"prometheus.sources.{name}.selector is '': it has to select the series with the depths of all queues: "
            "write "
            'one, such as my_depth{job="x"}'
        )
    return built_in.model_copy(
        update={field: getattr(source, field) for field in source.model_fields_set - {"selector"}}
    )


class WorkerImage(_Settings):
    """The image with the worker's runtime: injected into worker pods, and run as the queue exporter."""

    image: str = f"greenfleet/worker:{__version__}"
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: list[str] = []


class PodSecurityContext(_Settings):
    """User ids of the pods of all pools that say nothing themselves. `Image` (for `fsGroup` the word `None`), or null:
    the image's own, or what OpenShift gives. The group counts where the user is a number.
    """

    run_as_user: IdOfImage | None = 65532
    run_as_group: IdOfImage | None = 65532
    fs_group: FsGroup | None = 65532


class Pods(_Settings):
    """What the administrator decides for the pods of all pools: workers, companions and exporters."""

    security_context: PodSecurityContext = PodSecurityContext()
    allow_pod_template_patch: bool = False
    """Whether a pool may patch the pod template of its workers (`worker.podTemplatePatch`)."""


class PodMonitors(_Settings):
    """One PodMonitor per pool and per exporter, where the cluster serves the Prometheus operator's API."""

    enabled: bool = False
    labels: dict[str, str] = {}
    """By which Prometheus selects PodMonitors."""


class Settings(_Settings):
    """Everything that the operator reads at its start."""

    prometheus: Prometheus = Prometheus()
    worker: WorkerImage = WorkerImage()
    pods: Pods = Pods()
    pod_monitors: PodMonitors = PodMonitors()
    namespaces: list[str] = []
    """Namespaces to look after. Empty: the whole cluster."""
    tick: Duration = "2s"
    """How often the scaling loop looks at all pools."""
    api_concurrency: int = Field(default=16, ge=1, le=256)
    """Requests to the API server under way at once."""
    lease_duration: Annotated[Duration, AfterValidator(_long_enough)] = "15s"
    """After so long without renewal another replica may lead. 3 s at least: it is renewed every sixth of it."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"


def load(path: Path | None) -> Settings:
    """The settings in `path`, or the defaults without one. Raises SettingsError."""
    if path is None:
        return Settings()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"the configuration {path} cannot be read: {error.strerror}; mount it or correct --config"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"the configuration {path} is not YAML: {error}") from None
    try:
        return Settings.model_validate(content or {})
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(path, detail) for detail in error.errors())) from None


def _sentence(path: Path, detail: object) -> str:
    assert isinstance(detail, dict)
    field = ".".join(str(part) for part in detail["loc"]) or "the file"
    shown = "" if isinstance(detail.get("input"), dict | list) else f" is {detail.get('input')!r}"
    reason, fix = _REASONS.get(detail["type"], (detail["msg"], "correct it"))
    if detail["type"] == "value_error":  # a sentence of this module, which has its fix
        return f"{path}: {field}{shown}: {detail['msg'].removeprefix('Value error, ')}"
    return f"{path}: {field}{shown}: {reason[0].lower()}{reason[1:]}: {fix}"


_REASONS = {
    "extra_forbidden": (
        "the configuration has no such key",
        "correct its name, or remove it (docs/operator.md and the values of the chart have the names)",
    ),
    "missing": ("it is required", "add it"),
}
"""Reason and fix of what pydantic finds, by its name for that."""
