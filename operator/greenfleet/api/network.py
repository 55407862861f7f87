"""What the workers may connect to: the `egress` of a NetworkPolicy, in Kubernetes' own words."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from greenfleet.api.base import Model, Rule
from greenfleet.api.placement import LabelSelector
from greenfleet.api.rules import rule, rules

_Cidr = Annotated[
    str,
    Field(pattern=r"^[0-9A-Fa-f.:]+/[0-9]{1,3}$", min_length=4, max_length=49),
    Rule(
        "isCIDR(self)",
        "network.egress.to.ipBlock has %s, which is no range of addresses: write CIDR notation, such as 10.0.0.0/8",
    ),
]


class IpBlock(Model):
    """A range of addresses."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!isCIDR(self.cidr) || self.except.all(range, !isCIDR(range) || "
                "(cidr(self.cidr).containsCIDR(range) && range != self.cidr))",
                "network.egress.to.ipBlock.except has a range that is not inside of cidr (%s): correct it, or "
                "remove it",
                "self.cidr",
                at=".except",
            )
        )
    )

    cidr: _Cidr = Field(description="Addresses in CIDR notation, such as 10.0.0.0/8 or 2001:db8::/64.")
    except_: list[_Cidr] = Field(
        default=[],
        alias="except",
        description="Ranges inside of cidr that are not meant.",
        json_schema_extra={
            "maxItems": 16
        },  # for the API server alone: once there could be more, and such pools keep working
    )


class NetworkPeer(Model):
    """Who is at the other end: a range of addresses, or pods."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.ipBlock) != (has(self.podSelector) || has(self.namespaceSelector))",
                "network.egress.to has an entry with neither or with both of ipBlock and a selector: write one entry "
                "for the addresses and one for the pods",
            )
        )
    )

    ip_block: IpBlock | None = Field(default=None, description="Addresses. Absent: pods are meant.")
    pod_selector: LabelSelector | None = Field(
        default=None, description="Pods by their labels. Absent (with namespaceSelector): all pods there."
    )
    namespace_selector: LabelSelector | None = Field(
        default=None, description="Namespaces of those pods by their labels. Absent: the pool's own namespace."
    )


class NetworkPort(Model):
    """A port, or a range of ports."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.endPort) || self.endPort >= self.port",
                "network.egress.ports.endPort is %d, less than port (%d): raise endPort, or remove it for a single "
                "port",
                "self.endPort",
                "self.port",
                at=".endPort",
            )
        )
    )

    port: int = Field(ge=1, le=65535, description="Port of the other end; the pod's own, behind a Service.")
    end_port: int | None = Field(
        default=None, ge=1, le=65535, description="Last port of a range that begins at port. Absent: that port only."
    )
    protocol: Literal["TCP", "UDP", "SCTP"] = Field(default="TCP", description="Transport protocol.")


class EgressRule(Model):
    """Connections that are allowed."""

    to: list[NetworkPeer] = Field(default=[], max_length=64, description="The other ends. Empty: everybody.")
    ports: list[NetworkPort] = Field(default=[], max_length=64, description="Their ports. Empty: all.")


class Network(Model):
    """A NetworkPolicy for the pool's pods and for the exporter of its broker."""

    egress: list[EgressRule] = Field(
        min_length=1,
        max_length=64,
        description="What the workers may connect to: the broker, the result backend, and whatever the tasks call. DNS "
        "(port 53) is always allowed, and so is scraping the metrics port; everything else is not.",
    )
