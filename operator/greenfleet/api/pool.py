"""`GreenWorkerPool.spec` as typed models: the one place where a field's name, bounds, default and description are
written.

`greenfleet.api.crd` turns the models into the CustomResourceDefinition; the operator parses live objects with the same
models, so the two cannot disagree. Imports nothing that does I/O.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from greenfleet.api.base import (
    DNS_LABEL,
    UNIQUE,
    Duration,
    LabelMap,
    Model,
    ObjectName,
    Rule,
    SecretKey,
    StringMap,
    Within,
    keyed,
)
from greenfleet.api.network import Network
from greenfleet.api.placement import Affinity, Toleration, TopologySpreadConstraint
from greenfleet.api.rules import JsonSchema, rule, rules
from greenfleet.api.values import QUANTITY_PATTERN, quantity

MAX_GREEN_THREADS = 10_000
"""Ceiling of green threads per worker: connection pools are sized for it once, at process start."""

QUEUE_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9_.:/-]*[A-Za-z0-9])?$"
TASK_GLOB_PATTERN = r"^[A-Za-z0-9_.*?\[\]!:-]+$"
CONTENT_TYPE_PATTERN = r"^[a-z][a-z0-9_.+-]*$"
APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
"""How AppArmor profiles were named before Kubernetes 1.30; nodes still heed it, and `unconfined` takes a
profile away.
"""
HOST_PATTERN = r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?)$"
"""A name, or an address of either kind: nothing that could be a user, a path or a query in a URL."""
PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
IMAGE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$"
_PATH_PART = "[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*"
IMAGE_REFERENCE = (
    f"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{{1,5}})?/)?{_PATH_PART}(/{_PATH_PART})*"
    "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[a-z][a-z0-9]*([+._-][a-z][a-z0-9]*)*:[0-9a-fA-F]{32,})?$"
)
"""How container runtimes read the name of an image, as a regular expression within a CEL string."""
APP_PATTERN = (
    r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*(:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*)?$"
)
FIELD_PATHS = (
    r"^(metadata\.(name|namespace|uid|(labels|annotations)\['[A-Za-z0-9._/-]+'\])"
    r"|spec\.(nodeName|serviceAccountName)|status\.(hostIP|hostIPs|podIP|podIPs))$"
)
"""What the downward API has for environment variables."""

_CRON_FIELDS = (
    ("minute", "[0-5]?[0-9]", "0-59"),
    ("hour", "([01]?[0-9]|2[0-3])", "0-23"),
    ("day of month", "(0?[1-9]|[12][0-9]|3[01])", "1-31"),
    ("month", "(0?[1-9]|1[0-2]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)", "1-12 or JAN-DEC"),
    ("day of week", "([0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)", "0-7 or SUN-SAT"),
)


def _cron_rules() -> list[Rule]:
    """One rule a field of cron, so that the message can name it. What is left (5-1, 31 February), the operator
    finds.
    """
    found = []
    for index, (name, value, shown) in enumerate(_CRON_FIELDS):
        part = f"((\\\\*|{value}(-{value})?)(/0*[1-9][0-9]?)?)"
        found.append(
            Rule(
                f"self.upperAscii().split(' ')[{index}].matches('^{part}(,{part})*$')",
                f"scaling.schedules.cron is %s, whose {name} (%s) is none: write {shown}, a list, a range or a "
                "step of them",
                ("self", f"self.split(' ')[{index}]"),
            )
        )
    return found


_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY = _cron_rules()
Cron = Annotated[
    str,
    Field(min_length=9, max_length=100, pattern=r"^\S+ \S+ \S+ \S+ \S+$"),
    _MINUTE,
    _HOUR,
    _DAY,
    _MONTH,
    _WEEKDAY,
]


QueueName = Annotated[str, Field(pattern=QUEUE_PATTERN, min_length=1, max_length=180)]
ContentType = Annotated[str, Field(pattern=CONTENT_TYPE_PATTERN, min_length=1, max_length=60)]
TaskGlob = Annotated[str, Field(pattern=TASK_GLOB_PATTERN, min_length=1, max_length=250)]


def _non_negative(amount: int | str) -> int | str:
    quantity(str(amount))
    return amount


Quantity = Annotated[
    int | str,
    Field(
        union_mode="left_to_right",
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "pattern": QUANTITY_PATTERN,
            "maxLength": 32,
        },
    ),
    AfterValidator(_non_negative),
]
ResourceMap = Annotated[dict[str, Quantity], Field(max_length=16)]


class SecretKeyRef(Model):
    """One key of a Secret in the pool's own namespace."""

    name: ObjectName = Field(description="Name of the Secret, in the namespace of the pool.")
    key: SecretKey = Field(description="Key inside the Secret.")


class CaSecretRef(Model):
    """A CA bundle in a Secret."""

    name: ObjectName = Field(description="Name of the Secret, in the namespace of the pool.")
    key: SecretKey = Field(default="ca.crt", description="Key that holds the PEM bundle.")


def _exactly_one(of: str, *fields: str) -> JsonSchema:
    """One of these optional fields has to be set."""
    listed = ", ".join(f"has(self.{field})" for field in fields)
    return rule(
        f"[{listed}].filter(is_set, is_set).size() == 1",
        f"{of} sets %d of {', '.join(fields)}, and it must be one: keep one of them",
        f"[{listed}].filter(is_set, is_set).size()",
    )


class UrlSource(Model):
    """Where a URL comes from."""

    secret_key_ref: SecretKeyRef = Field(description="Secret key that holds the URL.")


class HostSource(Model):
    """A host name or an address: exactly one."""

    model_config = ConfigDict(json_schema_extra=rules(_exactly_one("host", "value", "secretKeyRef")))

    value: str | None = Field(
        default=None, min_length=1, max_length=253, pattern=HOST_PATTERN, description="The name or address itself."
    )
    secret_key_ref: SecretKeyRef | None = Field(default=None, description="Secret key that holds it.")


class PortSource(Model):
    """A port: exactly one."""

    model_config = ConfigDict(json_schema_extra=rules(_exactly_one("port", "value", "secretKeyRef")))

    value: int | None = Field(default=None, ge=1, le=65535, description="The port's number itself.")
    secret_key_ref: SecretKeyRef | None = Field(default=None, description="Secret key that holds it.")


class PathSource(Model):
    """A virtual host or a database: exactly one."""

    model_config = ConfigDict(json_schema_extra=rules(_exactly_one("path", "value", "secretKeyRef")))

    value: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        pattern=PRINTABLE,
        description="The name or number itself, not percent-encoded.",
    )
    secret_key_ref: SecretKeyRef | None = Field(default=None, description="Secret key that holds it.")


class UsernameSource(Model):
    """A user's name: exactly one."""

    model_config = ConfigDict(json_schema_extra=rules(_exactly_one("username", "value", "secretKeyRef")))

    value: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        pattern=PRINTABLE,
        description="The name itself, not percent-encoded.",
    )
    secret_key_ref: SecretKeyRef | None = Field(default=None, description="Secret key that holds it.")


class PasswordSource(Model):
    """Where a password comes from."""

    secret_key_ref: SecretKeyRef = Field(description="Secret key that holds the password, not percent-encoded.")


URL_PARTS = ("transport", "host", "port", "path", "username", "password")
"""What a URL is made of, where it is not in one Secret key as a whole."""


def _whole_or_parts(of: str) -> tuple[JsonSchema, JsonSchema]:
    """`urlFrom`, or `transport` and `host` with what else there is."""
    listed = ", ".join(f"has(self.{part})" for part in URL_PARTS)
    return (
        rule(
            "has(self.urlFrom) || (has(self.transport) && has(self.host))",
            f"{of}.urlFrom is not set, nor both {of}.transport and {of}.host, and the worker has to know where to "
            f"connect: set {of}.urlFrom, or {of}.transport and {of}.host",
        ),
        rule(
            f"!has(self.urlFrom) || ![{listed}].exists(is_set, is_set)",
            f"{of}.urlFrom is set beside %d of {', '.join(URL_PARTS)}, and the URL says all of them: keep "
            f"{of}.urlFrom, or them",
            f"[{listed}].filter(is_set, is_set).size()",
        ),
    )


class UrlOrParts(Model):
    """A URL as a whole, or in parts that each come from a place of their own."""

    url_from: UrlSource | None = None
    transport: str | None = None
    host: HostSource | None = Field(
        default=None, description="Host name or address, as a value or from a Secret. In place of urlFrom."
    )
    port: PortSource | None = Field(
        default=None, description="Port, as a value or from a Secret. Absent: the transport's usual one."
    )
    path: PathSource | None = Field(
        default=None,
        description="Virtual host (RabbitMQ) or number of the database (Redis), as a value or from a Secret. Absent: "
        "/ or 0.",
    )
    username: UsernameSource | None = Field(
        default=None, description="User, as a value or from a Secret. Absent: none, as with Redis' requirepass."
    )
    password: PasswordSource | None = Field(default=None, description="Password, from a Secret. Absent: none.")

    @property
    def parts(self) -> dict[str, str | SecretKeyRef]:
        """Each part that is set: what it is, or the Secret key that holds it."""
        found: dict[str, str | SecretKeyRef] = {} if self.transport is None else {"transport": self.transport}
        for name in URL_PARTS[1:]:
            source = getattr(self, name)
            if source is not None:
                found[name] = source.secret_key_ref or str(source.value)
        return found


class Broker(UrlOrParts):
    """Where the tasks wait."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *_whole_or_parts("broker"),
            rule(
                "!has(self.password) || has(self.username) || !has(self.transport) || "
                "self.transport in ['redis', 'rediss']",
                "broker.transport is %s with a password and without a username, and RabbitMQ wants both: set "
                "broker.username",
                "self.transport",
                at=".password",
            ),
        )
    )

    url_from: UrlSource | None = Field(
        default=None,
        description="Where the broker URL comes from (redis://…, rediss://…, sentinel://…, amqp://… or amqps://…). "
        "The worker gets "
        "it as CELERY_BROKER_URL, which overrides the app's own configuration. The operator itself never reads it. "
        "In its place: transport and host, with port, path, username and password.",
    )
    transport: Literal["redis", "rediss", "amqp", "amqps"] | None = Field(
        default=None,
        description="How the broker is spoken to: redis or amqp, with TLS rediss or amqps. In place of urlFrom, with "
        "host. Sentinels and several brokers need urlFrom.",
    )
    key_prefix: str = Field(
        default="",
        max_length=100,
        pattern=r"^[A-Za-z0-9_.:{}-]*$",
        description="Redis only: the app's global_keyprefix, which all keys of the broker begin with. Empty: none.",
    )
    priority_steps: Annotated[
        list[Annotated[int, Field(ge=0, le=255)]],
        Rule(
            "self.isSorted() && self.all(step, self.exists_one(other, other == step))",
            "broker.prioritySteps is %s, and kombu needs each step once, in ascending order: sort them, as in the "
            "app's "
            "priority_steps",
        ),
    ] = Field(
        default=[0, 3, 6, 9],
        min_length=1,
        max_length=10,
        description="Redis only: the app's priority_steps; the depth of a queue is the sum over its priority keys.",
    )
    consumer_timeout: Annotated[Duration, Within("broker.consumerTimeout", "1s")] = Field(
        default="30m",
        description="RabbitMQ only: the broker's consumer_timeout. Workers warn of tasks and ETAs that exceed it.",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="RabbitMQ only: the port of its Prometheus plugin (15692 unless configured otherwise), asked "
        "over HTTP on the "
        "broker's own host for the number of unacknowledged messages. Absent: what the workers themselves say "
        "counts alone.",
    )
    ca_secret_ref: CaSecretRef | None = Field(
        default=None,
        description="CA bundle to check the broker's certificate with, for rediss:// and amqps://. Absent: the "
        "image's own bundle. TLS options "
        "of the app (broker_use_ssl) or the URL (ssl_…) come first.",
    )
    insecure_skip_verify: bool = Field(
        default=False,
        description="True: check neither the certificate nor the host name of the broker. Whoever answers in its "
        "place then gets its "
        "password. For a test only; caSecretRef is the remedy for a CA of one's own.",
    )

    @property
    def identity(self) -> str:
        """Names this broker in its namespace: pools with the same one share a queue exporter. `secret/key` of the URL,
        or the host (the Secret that holds it) and a digest of what the parts say, which is never what a Secret holds.
        """
        if self.url_from is not None:
            return f"{self.url_from.secret_key_ref.name}/{self.url_from.secret_key_ref.key}"
        said = {
            name: part if isinstance(part, str) else {"name": part.name, "key": part.key}
            for name, part in self.parts.items()
        }
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.named_by[1]}:{digest}"

    @property
    def named_by(self) -> tuple[str, str]:
        """The field that says where this broker is, and what stands there: a host, or the name of a Secret."""
        if self.url_from is not None:
            return "broker.urlFrom", self.url_from.secret_key_ref.name
        host = self.parts.get("host", "")
        return "broker.host", host if isinstance(host, str) else host.name


class ResultBackend(UrlOrParts):
    """Where results go."""

    model_config = ConfigDict(json_schema_extra=rules(*_whole_or_parts("resultBackend")))

    url_from: UrlSource | None = Field(
        default=None,
        description="Where the URL of the result backend comes from; the worker gets it as CELERY_RESULT_BACKEND. In "
        "its place: transport and host, with port, path, username and password.",
    )
    transport: str | None = Field(
        default=None,
        min_length=1,
        max_length=60,
        pattern=r"^[a-z][a-z0-9+.-]*$",
        description="The scheme of its URL, such as redis, rediss or db+postgresql. In place of urlFrom, with host.",
    )
    ca_secret_ref: CaSecretRef | None = Field(
        default=None,
        description="CA bundle to check the certificate of a result backend at rediss:// with. Absent: the image's "
        "own bundle. TLS options "
        "of the app (redis_backend_use_ssl) or the URL (ssl_…) come first.",
    )
    insecure_skip_verify: bool = Field(
        default=False,
        description="True: check neither the certificate nor the host name of a result backend at rediss://. For a "
        "test only.",
    )


class GreenThreads(Model):
    """How many green threads one worker may have, and the whole fleet."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.min <= self.max",
                "greenThreads.min is %d, which is more than greenThreads.max (%d): lower min or raise max",
                "self.min",
                "self.max",
                at=".min",
            ),
            rule(
                "!has(self.start) || (self.start >= self.min && self.start <= self.max)",
                "greenThreads.start is %d, which is not between min (%d) and max (%d): choose a value between them",
                "self.start",
                "self.min",
                "self.max",
                at=".start",
            ),
        )
    )

    min: int = Field(default=10, ge=1, le=MAX_GREEN_THREADS, description="Fewest green threads in one worker.")
    max: int = Field(
        default=1000,
        ge=1,
        le=MAX_GREEN_THREADS,
        description="Most green threads in one worker. The operator stays below it where the worker's CPU, memory or "
        "downstream bear less.",
    )
    start: int | None = Field(
        default=None,
        ge=1,
        le=MAX_GREEN_THREADS,
        description="Green threads of the first worker, before the operator has learned what it bears. Default: 100, "
        "kept between min and max.",
    )
    total: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Hard cap on the green threads of the whole fleet, extra pods of a rollout and draining pods "
        "included: what a "
        "downstream can bear. Absent: no cap.",
    )

    @property
    def first(self) -> int:
        """Green threads of a first worker: `start`, or 100 within the bounds."""
        return min(max(self.start or 100, self.min), self.max)


def _min_max(field: str) -> dict[str, Any]:
    return rules(
        rule(
            "self.min <= self.max",
            f"{field}.min is %d, which is more than {field}.max (%d): lower min or raise max",
            "self.min",
            "self.max",
            at=".min",
        )
    )


class Replicas(Model):
    """Bounds on the number of Eventlet workers."""

    model_config = ConfigDict(json_schema_extra=_min_max("replicas"))

    min: int = Field(default=0, ge=0, le=1000, description="Fewest workers. 0 lets an idle pool scale to zero.")
    max: int = Field(default=10, ge=1, le=1000, description="Most workers.")


class PreforkReplicas(Model):
    """Bounds on the number of prefork workers."""

    model_config = ConfigDict(json_schema_extra=_min_max("prefork.replicas"))

    min: int = Field(default=0, ge=0, le=1000, description="Fewest prefork workers.")
    max: int = Field(default=2, ge=1, le=1000, description="Most prefork workers.")


class PrometheusRef(Model):
    """Where the depth of the queues is read."""

    server: ObjectName | None = Field(
        default=None, description="Name of a Prometheus server in the operator's configuration. Absent: its default."
    )
    source: ObjectName = Field(
        default="greenfleet",
        description="Name of a query source: greenfleet (our exporter), celery-exporter, rabbitmq, redis-exporter, "
        "or one "
        "that the administrator defined.",
    )
    query: str | None = Field(
        default=None,
        min_length=1,
        max_length=2000,
        description="Own PromQL that yields one sample, the messages ready in all queues of the pool. Only where the "
        "administrator allowed it.",
    )


class ScalingPolicy(Model):
    """One rate limit, as in a HorizontalPodAutoscaler."""

    type: Literal["Pods", "Percent"] = Field(
        description="Unit of value: pods, or percent of the pods at the period's start."
    )
    value: int = Field(
        ge=1, le=100_000, description="Most change within one period, in the unit that type says: pods, or percent."
    )
    period_seconds: int = Field(ge=1, le=1800, description="Length of the period, in seconds.")


class ScalingRules(Model):
    """Rate limits in one direction, as in a HorizontalPodAutoscaler (autoscaling/v2)."""

    policies: list[ScalingPolicy] = Field(default=[], max_length=10, description="Rate limits. Empty: none.")
    select_policy: Literal["Max", "Min", "Disabled"] = Field(
        default="Max",
        description="Which policy counts: the most permissive (Max), the strictest (Min), or no scaling (Disabled).",
    )
    stabilization_window_seconds: int | None = Field(
        default=None,
        ge=0,
        le=3600,
        description="Seconds over which earlier recommendations are taken into account. Absent: what the recent "
        "arrivals need.",
    )


class Behavior(Model):
    """The HPA's own schema."""

    scale_up: ScalingRules | None = Field(default=None, description="Rate limits on adding workers. Absent: none.")
    scale_down: ScalingRules | None = Field(default=None, description="Rate limits on removing workers. Absent: none.")


class ScheduleWindow(Model):
    """A recurring window with more workers at least."""

    name: str = Field(
        pattern=DNS_LABEL, min_length=1, max_length=63, description="Name of the window, such as office-hours."
    )
    cron: Cron = Field(
        description="When the window opens: minute, hour, day of month, month, day of week (crontab notation).",
    )
    duration: Annotated[Duration, Within("scaling.schedules.duration", "1m")] = Field(
        description="How long the window stays open, such as 9h."
    )
    timezone: str = Field(
        default="UTC", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$", description="IANA time zone of cron."
    )
    min_replicas: int = Field(
        ge=0, le=1000, description="Fewest workers while the window is open; never above replicas.max."
    )


class OnMissingMetrics(Model):
    """What to do while the depth of the queues is not known."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.policy != 'Floor' || has(self.floor)",
                "scaling.onMissingMetrics.policy is Floor, and floor is not set: say how many workers to keep at least",
                at=".floor",
            ),
            rule(
                "self.policy == 'Floor' || !has(self.floor)",
                "scaling.onMissingMetrics.floor is set, and policy is Hold, with which it has no effect: set "
                "policy to Floor, or remove floor",
                at=".floor",
            ),
        )
    )

    policy: Literal["Hold", "Floor"] = Field(
        default="Hold", description="Hold keeps the workers as they are; Floor also raises them to the number in floor."
    )
    floor: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Workers to have at least while the metrics are missing, with policy Floor.",
    )


class Scaling(Model):
    """How the pool follows its load."""

    mode: Literal["Auto", "Manual", "DryRun"] = Field(
        default="Auto",
        description="Auto: the operator scales. Manual: spec.manualReplicas sets the workers (kubectl scale, an "
        "HPA), green "
        "threads stay automatic. DryRun: decide and report only.",
    )
    pause: Literal["None", "In", "Out", "All"] = Field(
        default="None",
        description="Stops automatic scaling for a while. In: never fewer workers. Out: never more. All: neither. "
        "None: no pause.",
    )
    max_wait: Annotated[Duration, Within("scaling.maxWait", "1s")] = Field(
        default="30s", description="The objective: the longest that a message should wait for a green thread."
    )
    prometheus: PrometheusRef = Field(default=PrometheusRef(), description="Where the depth of the queues is read.")
    activation_threshold: int = Field(
        default=0, ge=0, le=1_000_000_000, description="Ready messages above which the pool leaves zero workers."
    )
    cooldown: Annotated[Duration, Within("scaling.cooldown")] = Field(
        default="5m", description="How long nothing may wait or run before the last worker goes (with replicas.min 0)."
    )
    behavior: Behavior = Field(default=Behavior(), description="Rate limits in the HPA's own schema.")
    schedules: list[ScheduleWindow] = Field(
        default=[],
        max_length=20,
        description="Windows in which more workers are kept at least.",
        json_schema_extra=keyed("name"),
    )
    on_missing_metrics: OnMissingMetrics = Field(
        default=OnMissingMetrics(),
        description="What to do while the depth of the queues is not known. It never scales in.",
    )


class ResourceAmounts(Model):
    """Compute resources of a container."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[self.requests, self.limits].all(amounts, amounts.all(name, name in ['cpu', 'memory', "
                "'ephemeral-storage'] || "
                "name.startsWith('hugepages-') || name.contains('/')))",
                "resources has %s, and a resource is cpu, memory, ephemeral-storage, hugepages-SIZE or DOMAIN/NAME "
                "(such as "
                "nvidia.com/gpu): correct the name",
                "[self.requests, self.limits].map(amounts, amounts.map(name, name))",
            ),
            rule(
                "self.limits.all(name, quantity(string(self.limits[name])).isGreaterThan(quantity('0')))",
                "resources.limits is %s, and 0 means no limit to Kubernetes: remove what is 0, or raise it",
                "self.limits",
                at=".limits",
            ),
            rule(
                "self.requests.all(name, !(name in self.limits) || "
                "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
                "resources.requests is %s, above resources.limits (%s), so that no node could run the pod: lower "
                "the request or raise "
                "the limit",
                "self.requests",
                "self.limits",
                at=".requests",
            ),
        )
    )

    requests: ResourceMap = Field(
        default={}, description="What the scheduler reserves, such as {cpu: 100m, memory: 128Mi}."
    )
    limits: ResourceMap = Field(
        default={}, description="What the container may use at most. One Eventlet worker uses at most one core."
    )


class HubWatchdog(Model):
    """What happens when a task blocks the hub."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "duration(self.warnAfter) < duration(self.restartAfter)",
                "hubWatchdog.warnAfter is %s, not less than hubWatchdog.restartAfter (%s), so that a worker would "
                "restart without a "
                "warning: lower warnAfter or raise restartAfter",
                "self.warnAfter",
                "self.restartAfter",
                at=".warnAfter",
            )
        )
    )

    warn_after: Annotated[Duration, Within("hubWatchdog.warnAfter", "1ms")] = Field(
        default="100ms", description="The hub stood still for so long: name the task, count it."
    )
    restart_after: Annotated[Duration, Within("hubWatchdog.restartAfter", "1s")] = Field(
        default="60s", description="The hub stood still for so long: restart the worker."
    )


class TaskTimeLimits(Model):
    """Time limits per task, which Celery's Eventlet pool lacks."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.soft) || !has(self.hard) || duration(self.soft) < duration(self.hard)",
                "taskTimeLimits.soft is %s, not less than taskTimeLimits.hard (%s), so that tasks are killed "
                "before they are told: lower soft or "
                "raise hard",
                "self.soft",
                "self.hard",
                at=".soft",
            )
        )
    )

    soft: Annotated[Duration, Within("taskTimeLimits.soft", "1ms")] | None = Field(
        default=None,
        description="SoftTimeLimitExceeded is raised in the task after so long, such as 30s. Absent: never.",
    )
    hard: Annotated[Duration, Within("taskTimeLimits.hard", "1ms")] | None = Field(
        default=None, description="The task is killed after so long, such as 45s. Absent: never."
    )


class Recycle(Model):
    """When a worker is replaced, after a drain."""

    max_age: Annotated[Duration, Within("recycle.maxAge", "1s")] | None = Field(
        default=None, description="Age of a worker, such as 12h. Absent: no limit."
    )
    max_memory: (
        Annotated[
            str,
            Field(pattern=r"^[0-9]+(\.[0-9]+)?(k|M|G|Ki|Mi|Gi)?$", max_length=20),
            Rule(
                "quantity(self).compareTo(quantity('16Mi')) >= 0",
                "recycle.maxMemory is %s, less than any Python process has, so that each worker would be replaced "
                "at once: write "
                "16Mi or more",
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Resident memory of a worker, such as 512Mi. Absent: no limit.",
    )
    max_tasks: int | None = Field(
        default=None, ge=1, le=1_000_000_000, description="Tasks run by a worker. Absent: no limit."
    )


class Drain(Model):
    """How a worker leaves."""

    timeout: Annotated[Duration, Within("drain.timeout")] = Field(
        default="60s",
        description="How long running tasks may take to finish when their worker leaves; what is unfinished then "
        "goes back "
        "to the queue. terminationGracePeriodSeconds is 15 s more.",
    )


class ObjectKeyRef(Model):
    """One key of a ConfigMap or Secret in the pool's namespace."""

    name: ObjectName = Field(description="Name of the object, in the namespace of the pool.")
    key: SecretKey = Field(description="Key inside the object.")
    optional: bool = Field(default=False, description="True: start even if the object or key is missing.")


class FieldRef(Model):
    """A field of the pod."""

    field_path: str = Field(
        min_length=1, max_length=400, pattern=FIELD_PATHS, description="Path of the field, such as metadata.namespace."
    )


class EnvSource(Model):
    """Where a variable's value comes from: exactly one."""

    model_config = ConfigDict(
        json_schema_extra=rules(_exactly_one("worker.env.valueFrom", "secretKeyRef", "configMapKeyRef", "fieldRef"))
    )

    secret_key_ref: ObjectKeyRef | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: ObjectKeyRef | None = Field(default=None, description="A key of a ConfigMap.")
    field_ref: FieldRef | None = Field(default=None, description="A field of the pod.")


def _argument(short: str, long: str, reason: str, fix: str) -> Rule:
    """Refuses options of `celery worker`: letters, also joined to others as in `-EQx`, and names, as in
    `--queues=x`.
    """
    letters = f"-E*[{short}]|" if short else ""
    return Rule(
        f"!self.matches('^({letters}--({long})(=|$))')",
        f"worker.extraArgs has %s, {reason}: remove it, and {fix}",
        ("self",),
    )


ExtraArgument = Annotated[
    str,
    Field(min_length=1, max_length=500),
    _argument("A", "app", "which the field app says", "set app"),
    _argument("b", "broker", "which the field broker says", "set broker.urlFrom, or broker.transport and broker.host"),
    _argument(
        "",
        "result-backend",
        "which the field resultBackend says",
        "set resultBackend.urlFrom, or resultBackend.transport and resultBackend.host",
    ),
    _argument("QX", "queues|exclude-queues", "and the field queues says what is consumed", "set queues"),
    _argument("P", "pool", "and workers run the Eventlet pool", "list tasks that block in prefork.tasks"),
    _argument(
        "c", "concurrency|autoscale", "and the operator scales", "set greenThreads, replicas or prefork.processes"
    ),
    _argument("n", "hostname", "and a worker is named after its pod", "use worker.labels to tell pods apart"),
    _argument("", "prefetch-multiplier", "which worker.prefetchMultiplier says", "set that"),
    _argument(
        "",
        "time-limit|soft-time-limit",
        "which the field taskTimeLimits says",
        "set taskTimeLimits.hard and taskTimeLimits.soft",
    ),
    _argument("", "max-(tasks|memory)-per-child", "which the field recycle says", "set recycle.maxTasks or maxMemory"),
    _argument("", "uid|gid", "which worker.securityContext says", "set runAsUser and runAsGroup there"),
    _argument("D", "detach", "and a detached worker ends its container", "leave it running in the foreground"),
    _argument("B", "beat", "and every worker would run a beat of its own", "run `celery beat` in a Deployment"),
    _argument(
        "", "purge|discard", "and each worker that starts would throw away what waits", "purge by hand: `celery purge`"
    ),
    _argument(
        "",
        "workdir|config|loader",
        "which Celery takes before its command only",
        "set PYTHONPATH, CELERY_CONFIG_MODULE or CELERY_LOADER in worker.env",
    ),
    Rule(
        "!self.matches('^[A-Za-z_]*[._][A-Za-z_.]*=')",
        "worker.extraArgs has %s, by which Celery changes the configuration of the app: remove it, and set the "
        "field that means it, or "
        "configure the app",
    ),
]
"""An argument of `celery worker`: what the resource has a field for, or what loses tasks, is refused. The worker looks
again.
"""

CELERY_OPTIONS = (
    "QUEUES|EXCLUDE_QUEUES|POOL|CONCURRENCY|AUTOSCALE|HOSTNAME|PREFETCH_MULTIPLIER|TIME_LIMIT|SOFT_TIME_LIMIT|MAX_TASKS_PER_CHILD|"
    "MAX_MEMORY_PER_CHILD|UID|GID|DETACH|BEAT|PURGE"
)
"""Celery reads each option of `celery worker` from a variable too (`CELERY_WORKER_EXCLUDE_QUEUES`): those that are
refused above.
"""

RESERVED_VARIABLE = re.compile(
    f"(GREENWORKER_.*|CELERY_BROKER_(READ_|WRITE_)?URL|CELERY_RESULT_BACKEND|CELERY_WORKER_({CELERY_OPTIONS}))"
)
"""Names of variables that a pool's author cannot set."""


class EnvVar(Model):
    """One environment variable."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"!self.name.matches('^{RESERVED_VARIABLE.pattern}$')",
                "worker.env sets %s, which Greenfleet sets itself, or has a field for: use broker, resultBackend "
                "or the field that "
                "means it",
                "self.name",
                at=".name",
            ),
            rule(
                "!has(self.value) || !has(self.valueFrom)",
                "worker.env sets value and valueFrom of %s, and a variable has one of them: keep one",
                "self.name",
            ),
        )
    )

    name: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", min_length=1, max_length=250, description="Name of the variable."
    )
    value: str | None = Field(default=None, max_length=32768, description="Its value.")
    value_from: EnvSource | None = Field(default=None, description="Where its value comes from instead.")


class NamedObject(Model):
    """Name of a ConfigMap or Secret."""

    name: ObjectName = Field(description="Name of the object, in the namespace of the pool.")
    optional: bool = Field(default=False, description="True: start even if the object is missing.")


class EnvFrom(Model):
    """All keys of an object as environment variables."""

    model_config = ConfigDict(json_schema_extra=rules(_exactly_one("worker.envFrom", "configMapRef", "secretRef")))

    prefix: str | None = Field(default=None, max_length=100, description="Put before each name.")
    config_map_ref: NamedObject | None = Field(default=None, description="A ConfigMap.")
    secret_ref: NamedObject | None = Field(default=None, description="A Secret.")


class SecretVolume(Model):
    """Files from a Secret."""

    secret_name: ObjectName = Field(description="Name of the Secret.")
    optional: bool = Field(default=False, description="True: start even if it is missing.")
    default_mode: int | None = Field(
        default=None, ge=0, le=511, description="Mode bits of the files, as a decimal number."
    )


class ConfigMapVolume(Model):
    """Files from a ConfigMap."""

    name: ObjectName = Field(description="Name of the ConfigMap.")
    optional: bool = Field(default=False, description="True: start even if it is missing.")
    default_mode: int | None = Field(
        default=None, ge=0, le=511, description="Mode bits of the files, as a decimal number."
    )


class EmptyDirVolume(Model):
    """Scratch space."""

    medium: Literal["", "Memory"] = Field(default="", description="Empty: the node's disk. Memory: a tmpfs.")
    size_limit: str | None = Field(
        default=None, max_length=20, pattern=QUANTITY_PATTERN, description="Most space, such as 1Gi."
    )


class ClaimVolume(Model):
    """A PersistentVolumeClaim."""

    claim_name: ObjectName = Field(description="Name of the claim.")
    read_only: bool = Field(default=False, description="True: mount it read-only.")


class Volume(Model):
    """One volume. Kinds that reach into the node, such as hostPath, do not exist here."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _exactly_one("worker.volumes", "secret", "configMap", "emptyDir", "persistentVolumeClaim"),
            rule(
                "!self.name.startsWith('greenfleet-')",
                "worker.volumes has %s, and names that begin with greenfleet- are the operator's own: choose "
                "another name",
                "self.name",
                at=".name",
            ),
        )
    )

    name: str = Field(pattern=DNS_LABEL, min_length=1, max_length=63, description="Name that volumeMounts refer to.")
    secret: SecretVolume | None = Field(default=None, description="Files from a Secret.")
    config_map: ConfigMapVolume | None = Field(default=None, description="Files from a ConfigMap.")
    empty_dir: EmptyDirVolume | None = Field(default=None, description="Scratch space that lives as long as the pod.")
    persistent_volume_claim: ClaimVolume | None = Field(default=None, description="A PersistentVolumeClaim.")


class VolumeMount(Model):
    """Where a volume appears."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!self.mountPath.matches('^/+(etc/+)?greenfleet(/|$)')",
                "worker.volumeMounts.mountPath is %s, and /greenfleet and /etc/greenfleet are the worker runtime's "
                "own: choose "
                "another path",
                "self.mountPath",
                at=".mountPath",
            ),
            rule(
                r"!self.mountPath.matches('/[.][.]?(/|$)')",
                "worker.volumeMounts.mountPath is %s, and with . or .. in it, it may be another path than it seems: "
                "write it without them",
                "self.mountPath",
                at=".mountPath",
            ),
            rule(
                "!has(self.subPath) || !(self.subPath.startsWith('/') || self.subPath.split('/').exists(part, part "
                "== '..'))",
                "worker.volumeMounts.subPath begins with / or has .., and it must stay inside the volume: write a "
                "relative path",
                at=".subPath",
            ),
        )
    )

    name: str = Field(pattern=DNS_LABEL, min_length=1, max_length=63, description="Name of the volume.")
    mount_path: str = Field(
        pattern=r"^/[^:]*$", min_length=1, max_length=1024, description="Absolute path in the container."
    )
    sub_path: str | None = Field(default=None, max_length=1024, description="Path inside the volume.")
    read_only: bool = Field(default=False, description="True: mount it read-only.")


def _id(keyword: str, description: str) -> Any:
    """A field for the number of a user or group, or a word in its place. `null` is the word too, where it arrives:
    `kubectl apply` leaves it out.
    """
    return Field(
        default=None,
        description=description,
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "nullable": True,
            "minimum": 1,
            "maximum": HIGHEST_ID,
            "maxLength": 32,
            "pattern": f"^{keyword}$",
        },
    )


def _id_rule(field: str, keyword: str) -> JsonSchema:
    return rule(
        f"!has(self.{field}) || type(self.{field}) == int || self.{field} == '{keyword}'",
        f"worker.securityContext.{field} is the text %s, and neither a number nor {keyword}: write a number without "
        f"quotes, or {keyword}",
        f"string(self.{field})",
        at=f".{field}",
    )


HIGHEST_ID = 2_147_483_647
"""Highest number of a user or group that Kubernetes takes (k8s.io/apimachinery pkg/util/validation, maxUserID)."""
Id = Annotated[int, Field(strict=True, ge=1, le=HIGHEST_ID)]
IdOfImage = Id | Literal["Image"]
FsGroup = Id | Literal["None"]


def number_of(chosen: int | str | None) -> int | None:
    """The number of a user or group; None where the image or OpenShift chooses it."""
    return chosen if isinstance(chosen, int) else None


class SecurityContext(Model):
    """User ids and the root file system; everything else is fixed to Pod Security's "restricted" profile."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _id_rule("runAsUser", "Image"),
            _id_rule("runAsGroup", "Image"),
            _id_rule("fsGroup", "None"),
            rule(
                "!has(self.runAsUser) || type(self.runAsUser) == int || !has(self.runAsGroup) || "
                "type(self.runAsGroup) != int",
                "worker.securityContext.runAsGroup is %s beside runAsUser Image, and no container runtime takes a "
                "group without a user: remove runAsGroup, which leaves the group of the image, or write the number "
                "of the user too",
                "string(self.runAsGroup)",
                at=".runAsGroup",
            ),
        )
    )

    run_as_user: IdOfImage | None = _id(
        "Image",
        "User id of the worker; 0 (root) is refused. Image: the image's own user, which must be a "
        "number and not root, or the one that OpenShift gives. Absent: as the administrator says for all pools, else "
        "65532. null is the same as Image, but `kubectl apply` leaves it out.",
    )
    run_as_group: IdOfImage | None = _id(
        "Image",
        "Group id of the worker. Image: the image's own, as it always is where runAsUser is Image. Absent: as the "
        "administrator says, else 65532. null is the same as Image.",
    )
    fs_group: FsGroup | None = _id(
        "None",
        "Group that owns the volumes. None: none, or OpenShift's. Absent: as the administrator says, "
        "else 65532. null is the same as None.",
    )
    read_only_root_filesystem: bool = Field(
        default=False, description="True: the image's file system is read-only; /tmp stays writable."
    )


class StartupBoost(Model):
    """What a worker may use while it starts, beyond its limits."""

    cpu: Quantity = Field(
        default=1,
        description="CPU limit of a worker until it has started (for a minute at most), where its own limit is "
        "lower: importing an "
        "application takes a second of CPU, which is ten seconds on a tenth of a core. Requests stay as they are, "
        "so only CPU that nobody "
        "else claims is used. 0: its own limit from the beginning.",
    )


def _own_words(part: str) -> tuple[JsonSchema, ...]:
    """Labels and annotations that are the operator's own, and what would change the confinement of the pods."""
    return (
        rule(
            "!has(self.annotations) || self.annotations.all(name, !name.startsWith('greenfleet.io/'))",
            f"{part}.annotations sets one that begins with greenfleet.io/, which are the operator's own: remove it",
            at=".annotations",
        ),
        rule(
            "!has(self.labels) || self.labels.all(name, !name.startsWith('greenfleet.io/') && !(name in "
            "['app.kubernetes.io/name', "
            "'app.kubernetes.io/instance', 'app.kubernetes.io/component', 'app.kubernetes.io/managed-by']))",
            f"{part}.labels sets one that Greenfleet sets itself (greenfleet.io/*, and name, instance, component "
            "and managed-by "
            "of app.kubernetes.io): remove it, or use a name of your own",
            at=".labels",
        ),
        rule(
            f"!has(self.annotations) || !self.annotations.exists(name, name.startsWith('{APPARMOR_ANNOTATION}'))",
            f"{part}.annotations has {APPARMOR_ANNOTATION}…, which would change the confinement of the pods; they "
            "keep that of the runtime: remove it",
            at=".annotations",
        ),
    )


class Worker(Model):
    """What the worker's pods have beyond the defaults: a curated overlay, not a whole PodSpec."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *_own_words("worker"),
            rule(
                "self.volumeMounts.all(mount, self.volumes.exists(volume, volume.name == mount.name))",
                "worker.volumeMounts names %s, which worker.volumes does not have: correct the name, or add the volume",
                "self.volumeMounts.filter(mount, !self.volumes.exists(volume, volume.name == "
                "mount.name)).map(mount, mount.name)",
                at=".volumeMounts",
            ),
        )
    )

    env: list[EnvVar] = Field(
        default=[],
        max_length=200,
        description="Environment variables of the worker.",
        json_schema_extra=keyed("name"),
    )
    env_from: list[EnvFrom] = Field(
        default=[], max_length=20, description="Objects whose keys become environment variables."
    )
    resources: ResourceAmounts = Field(
        default=ResourceAmounts(),
        description="Compute resources of one Eventlet worker. Its CPU limit bounds what the operator asks of it.",
    )
    startup_boost: StartupBoost = Field(
        default=StartupBoost(),
        description="More CPU while a worker starts, by a resize of the pod in place (Kubernetes 1.33 and later).",
    )
    node_selector: LabelMap = Field(default={}, description="Labels that a node must have.")
    tolerations: list[Toleration] = Field(
        default=[], max_length=20, description="Taints that the pods tolerate, as in a pod."
    )
    affinity: Affinity | None = Field(default=None, description="Affinity rules, as in a pod. Absent: none.")
    topology_spread_constraints: list[TopologySpreadConstraint] = Field(
        default=[],
        max_length=10,
        description="How the pods spread over the nodes, as in a pod.",
        json_schema_extra=keyed("topologyKey", "whenUnsatisfiable"),
    )
    volumes: list[Volume] = Field(
        default=[], max_length=30, description="Volumes of the pods.", json_schema_extra=keyed("name")
    )
    volume_mounts: list[VolumeMount] = Field(
        default=[],
        max_length=60,
        description="Where the volumes appear in the worker.",
        json_schema_extra=keyed("mountPath"),
    )
    service_account_name: ObjectName | None = Field(
        default=None,
        description="Service account of the pods. Its token is mounted only when this is set. Absent: default, "
        "without a token.",
    )
    priority_class_name: ObjectName | None = Field(default=None, description="Priority class of the pods.")
    labels: LabelMap = Field(
        default={},
        description="Labels added to the pods, such as app.kubernetes.io/part-of and version; greenfleet.io/* are "
        "the operator's own.",
    )
    annotations: StringMap = Field(
        default={},
        description="Annotations added to the pods; greenfleet.io/* are the operator's own. A change replaces the "
        "workers one "
        "by one: put the checksum of a Secret or ConfigMap here, and its change takes effect.",
    )
    extra_args: list[ExtraArgument] = Field(
        default=[],
        max_length=50,
        description="Arguments added to `celery worker`, such as --loglevel=INFO. What has a field is refused here.",
    )
    prefetch_multiplier: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Messages fetched per green thread. 1 keeps every message where another worker can take it.",
    )
    accept_content: list[ContentType] = Field(
        default=["json"],
        min_length=1,
        max_length=10,
        description="Serializers that messages and results may have, by kombu's names: json, yaml, msgpack, auth, "
        "pickle, or "
        "one that the app registers. A worker whose app wants more refuses to start. pickle lets everybody who can "
        "write to "
        "the broker run code in the worker.",
        json_schema_extra=UNIQUE,
    )
    remote_control: Literal["Disabled", "ReadOnly", "Full"] = Field(
        default="ReadOnly",
        description="What Celery's remote control may do, which everybody can use who can write to the broker. "
        "ReadOnly: inspect, ping, "
        "and revoking tasks. Full: also shutdown, rate and time limits, consumers and events, at run time. "
        "Disabled: nothing, not even revoke.",
    )
    python: str = Field(
        default="python3",
        min_length=1,
        max_length=255,
        pattern=r"^[A-Za-z0-9_./+-]+$",
        description="The image's Python interpreter: a name on its PATH, or an absolute path.",
    )
    wrapper: list[Annotated[str, Field(min_length=1, max_length=500)]] = Field(
        default=[],
        max_length=20,
        description="Command and arguments that start the worker as their last arguments, such as [ddtrace-run] or "
        "[newrelic-admin, "
        "run-program]. It has to replace itself by the worker (exec), or signals do not arrive. Empty: none.",
    )
    security_context: SecurityContext = Field(
        default=SecurityContext(), description="User ids and root file system of the worker."
    )
    pod_template_patch: dict[str, Any] | None = Field(
        default=None,
        max_length=2,
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
        description="A strategic-merge patch of the worker's pod template (metadata and spec), for what the "
        "resource has no words for: "
        "sidecars, init containers, hostAliases, dnsConfig… Only where the administrator allows it. Greenfleet's "
        "own labels, annotations, "
        "containers' commands and probes stay. Absent: none.",
    )


class Prefork(Model):
    """The companion fleet for tasks that block."""

    processes: int = Field(default=2, ge=1, le=64, description="Processes per prefork worker.")
    replicas: PreforkReplicas = Field(default=PreforkReplicas(), description="Bounds on the number of prefork workers.")
    tasks: list[TaskGlob] = Field(
        default=[],
        max_length=200,
        description="Names or globs of tasks that run in prefork workers.",
        json_schema_extra=UNIQUE,
    )
    auto_route: bool = Field(
        default=False,
        description="True: tasks that were seen blocking the hub often enough move to prefork by themselves.",
    )
    resources: ResourceAmounts = Field(default=ResourceAmounts(), description="Compute resources of a prefork worker.")
    env: list[EnvVar] = Field(
        default=[],
        max_length=200,
        description="Environment variables of the prefork workers, besides those of worker.env; of two with one "
        "name these count.",
        json_schema_extra=keyed("name"),
    )
    node_selector: LabelMap | None = Field(default=None, description="As in worker. Absent: that of worker.")
    tolerations: list[Toleration] | None = Field(
        default=None, max_length=20, description="As in worker. Absent: those of worker."
    )
    affinity: Affinity | None = Field(default=None, description="As in worker. Absent: that of worker.")
    topology_spread_constraints: list[TopologySpreadConstraint] | None = Field(
        default=None,
        max_length=10,
        description="As in worker. Absent: those of worker.",
        json_schema_extra=keyed("topologyKey", "whenUnsatisfiable"),
    )
    priority_class_name: ObjectName | None = Field(default=None, description="As in worker. Absent: that of worker.")


class Exporter(Model):
    """The pod that measures the queues, which all pools of one broker share: the first of them by name decides."""

    model_config = ConfigDict(json_schema_extra=rules(*_own_words("exporter")))

    node_selector: LabelMap | None = Field(default=None, description="As in worker. Absent: that of worker.")
    tolerations: list[Toleration] | None = Field(
        default=None, max_length=20, description="As in worker. Absent: those of worker."
    )
    affinity: Affinity | None = Field(default=None, description="As in a pod. Absent: none.")
    priority_class_name: ObjectName | None = Field(default=None, description="As in worker. Absent: that of worker.")
    labels: LabelMap | None = Field(default=None, description="As in worker. Absent: those of worker.")
    annotations: StringMap | None = Field(default=None, description="As in worker. Absent: those of worker.")
    resources: ResourceAmounts = Field(
        default=ResourceAmounts(),
        description="Compute resources of the exporter. What is absent: 10m CPU, 48Mi memory, a limit of 192Mi, and "
        "the worker's CPU limit.",
    )


class DeadLetter(Model):
    """What becomes of a task that ends every process that runs it."""

    max_deliveries: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Worker processes that a task may end while it runs alone; after that its message is a dead "
        "letter, which "
        "`kubectl greenfleet dead-letters` lists and requeues. 0: no cap, such a task ends workers for ever.",
    )


class ImagePullSecret(Model):
    """Name of a Secret with registry credentials."""

    name: ObjectName = Field(description="Name of the Secret, in the namespace of the pool.")


class PoolSpec(Model):
    """What the user wants: app, image, broker and queues; everything else has a default."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.greenThreads.total) || self.greenThreads.min * self.replicas.min <= self.greenThreads.total",
                "greenThreads.total is %d, less than greenThreads.min × replicas.min (%d): raise total or lower "
                "one of the two",
                "self.greenThreads.total",
                "self.greenThreads.min * self.replicas.min",
                at=".greenThreads",
            ),
            rule(
                "!has(self.greenThreads.total) || self.greenThreads.min <= self.greenThreads.total",
                "greenThreads.total is %d, less than greenThreads.min (%d), so that not one worker could run: "
                "raise total or lower min",
                "self.greenThreads.total",
                "self.greenThreads.min",
                at=".greenThreads",
            ),
            rule(
                "self.manualReplicas == oldSelf.manualReplicas || self.scaling.mode == 'Manual' || "
                "oldSelf.scaling.mode == 'Manual'",
                "manualReplicas becomes %d, which scaling.mode %s does not read, so that no worker would come or "
                "go: set replicas.min and "
                "replicas.max, or scaling.mode to Manual in the same change",
                "self.manualReplicas",
                "self.scaling.mode",
                at=".manualReplicas",
            ),
        )
    )

    app: str = Field(
        min_length=1,
        max_length=253,
        pattern=APP_PATTERN,
        description="The Celery application, as in `celery -A proj`.",
    )
    image: Annotated[
        str,
        Field(min_length=1, max_length=512, pattern=IMAGE_PATTERN),
        Rule(
            f"self.matches('{IMAGE_REFERENCE}')",
            "spec.image is %s, which is not the name of an image: write [REGISTRY/]NAME[:TAG][@DIGEST], NAME in "
            "lower case",
        ),
    ] = Field(
        description="The user's image as it is: Python 3.10 to 3.14, Celery 5.3 to 5.7, Eventlet, the app's code.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="When the image is pulled. Absent: Kubernetes' own default."
    )
    image_pull_secrets: list[ImagePullSecret] = Field(
        default=[],
        max_length=10,
        description="Credentials for the image's registry.",
        json_schema_extra=keyed("name"),
    )
    broker: Broker = Field(description="Where the tasks wait.")
    result_backend: ResultBackend | None = Field(
        default=None, description="Where results go. Absent: as the app is configured."
    )
    queues: list[QueueName] = Field(
        min_length=1,
        max_length=20,
        description="Queues that the workers consume. A queue belongs to one pool. One that does not exist is created "
        "by the first worker or producer; on RabbitMQ a Warning Event says so after a minute: it may be a typing "
        "error. Redis cannot tell it from an empty queue.",
        json_schema_extra=UNIQUE,
    )
    agent: Literal["Inject", "Installed"] = Field(
        default="Inject",
        description="Inject: an init container brings the worker runtime. Installed: the image has greenfleet[worker].",
    )
    green_threads: GreenThreads = Field(default=GreenThreads(), description="Bounds on green threads per worker.")
    replicas: Replicas = Field(default=Replicas(), description="Bounds on the number of workers.")
    manual_replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Number of workers with scaling.mode Manual; what kubectl scale and an HPA set. In another "
        "mode it cannot be changed.",
    )
    scaling: Scaling = Field(default=Scaling(), description="How the pool follows its load.")
    prefork: Prefork | None = Field(default=None, description="A companion fleet for tasks that block. Absent: none.")
    hub_watchdog: HubWatchdog = Field(default=HubWatchdog(), description="What happens when a task blocks the hub.")
    task_time_limits: TaskTimeLimits = Field(default=TaskTimeLimits(), description="Time limits per task.")
    recycle: Recycle = Field(default=Recycle(), description="When a worker is replaced.")
    drain: Drain = Field(default=Drain(), description="How a worker leaves.")
    dead_letter: DeadLetter = Field(
        default=DeadLetter(), description="What becomes of a task that ends every process that runs it."
    )
    worker: Worker = Field(default=Worker(), description="What the worker's pods have beyond the defaults.")
    exporter: Exporter = Field(
        default=Exporter(), description="The pod that measures the queues; the first pool of a broker by name decides."
    )
    network: Network | None = Field(
        default=None, description="A NetworkPolicy for the workers. Absent: no policy, everything is allowed."
    )


class GreenWorkerPool(Model):
    """One live object, as far as the operator needs it."""

    model_config = ConfigDict(extra="ignore")

    namespace: str
    name: str
    uid: str
    generation: int
    spec: PoolSpec
    out_of_bounds: tuple[str, ...] = ()
    """Field, value, reason and fix of each duration in a stored object that is older than its bounds."""

    @property
    def key(self) -> str:
        """`namespace/name`: how logs, metrics and the registry call the pool."""
        return f"{self.namespace}/{self.name}"

    @property
    def broker_key(self) -> str:
        """`namespace/` and the broker's identity there: the label `broker` of its metrics."""
        return f"{self.namespace}/{self.spec.broker.identity}"


class InvalidPoolError(ValueError):
    """The API server accepted an object that the operator cannot work with; the text says field, value, reason
    and fix.
    """


def parse_pool(body: dict[str, Any]) -> GreenWorkerPool:
    """The typed pool of an object from the API server. Raises InvalidPoolError."""
    metadata = body["metadata"]
    out_of_bounds: list[str] = []
    try:
        spec = PoolSpec.model_validate(body.get("spec") or {}, context=out_of_bounds)
        return GreenWorkerPool(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata.get("generation", 1),
            spec=spec,
            out_of_bounds=tuple(out_of_bounds),
        )
    except ValidationError as error:
        raise InvalidPoolError("; ".join(_sentence(detail) for detail in error.errors()[:5])) from None


def _sentence(detail: Any) -> str:
    field = ".".join(str(part) for part in ("spec", *detail["loc"]))
    value = detail.get("input")
    shown = "" if isinstance(value, dict | list) else f" is {str(value)[:100]!r}"
    return f"{field}{shown}: {detail['msg'][0].lower()}{detail['msg'][1:]}; correct the field and apply again"
