"""Where pods may run, and how labels select objects: Kubernetes' own schemas, written out with bounds and descriptions.

A field that preserved unknown ones would be shorter, and would let a misspelt rule through, which nobody would notice.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from greenfleet.api.base import DNS_LABEL, LabelKey, LabelMap, LabelValue, Model
from greenfleet.api.rules import rule, rules

_Namespace = Annotated[str, Field(pattern=DNS_LABEL, min_length=1, max_length=63)]
_NodeValue = Annotated[str, Field(max_length=253)]


_VALUES = rule(
    "(self.operator in ['In', 'NotIn']) ? self.values.size() > 0 : self.values.size() == 0 || self.operator in "
    "['Gt', 'Lt']",
    "matchExpressions.values has %d entries with operator %s: In and NotIn need one at least, Exists and "
    "DoesNotExist take none",
    "self.values.size()",
    "self.operator",
    at=".values",
)


class LabelRequirement(Model):
    """One condition on a label."""

    model_config = ConfigDict(json_schema_extra=rules(_VALUES))

    key: LabelKey = Field(description="Label that is looked at.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How the label relates to values: In, NotIn, Exists or DoesNotExist."
    )
    values: list[LabelValue] = Field(default=[], max_length=64, description="Values for In and NotIn; else empty.")


class LabelSelector(Model):
    """Selects objects by their labels; all conditions must hold, and none selects everything."""

    match_labels: LabelMap = Field(default={}, description="Labels that must have exactly these values.")
    match_expressions: list[LabelRequirement] = Field(
        default=[], max_length=32, description="Further conditions on labels."
    )


class Toleration(Model):
    """A taint that the pods tolerate."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.operator != 'Exists' || !has(self.value) || self.value == ''",
                "worker.tolerations.value is %s with operator Exists, which takes none: remove value, or use "
                "operator Equal",
                "self.value",
                at=".value",
            ),
            rule(
                "self.operator == 'Exists' || has(self.key)",
                "worker.tolerations has an entry without key, which needs operator Exists: name a key, or use "
                "operator Exists",
                at=".key",
            ),
            rule(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "worker.tolerations.tolerationSeconds is %d, which only effect NoExecute has a use for: remove it, "
                "or set the effect",
                "self.tolerationSeconds",
                at=".tolerationSeconds",
            ),
        )
    )

    key: LabelKey | None = Field(default=None, description="Key of the taint. Absent (with Exists): every key.")
    operator: Literal["Exists", "Equal"] = Field(
        default="Equal", description="Exists: any value of the taint. Equal: the value given here."
    )
    value: LabelValue | None = Field(default=None, description="Value of the taint, with operator Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint. Absent: all effects."
    )
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        le=2_147_483_647,
        description="Seconds that a pod stays on a node after a NoExecute taint. Absent: for ever.",
    )


class TopologySpreadConstraint(Model):
    """How evenly the pods of a fleet are spread."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.minDomains) || self.whenUnsatisfiable == 'DoNotSchedule'",
                "worker.topologySpreadConstraints.minDomains is %d, which needs whenUnsatisfiable DoNotSchedule: "
                "set that, or remove "
                "minDomains",
                "self.minDomains",
                at=".minDomains",
            )
        )
    )

    max_skew: int = Field(ge=1, le=1000, description="Most difference in pods between two topology domains.")
    topology_key: LabelKey = Field(description="Node label whose values are the domains.")
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        description="What happens to a pod that would exceed the skew: DoNotSchedule or ScheduleAnyway."
    )
    min_domains: int | None = Field(
        default=None, ge=1, le=1000, description="Fewest domains that must exist, with DoNotSchedule. Absent: 1."
    )
    label_selector: LabelSelector | None = Field(
        default=None, description="Pods that are counted. Set it to greenfleet.io/pool: NAME to count this pool's."
    )
    match_label_keys: list[LabelKey] = Field(
        default=[], max_length=16, description="Labels whose own value in a pod narrows the selector."
    )
    node_affinity_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None, description="Whether nodes that affinity excludes count. Absent: Honor."
    )
    node_taints_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None, description="Whether tainted nodes count. Absent: Ignore."
    )


class NodeRequirement(Model):
    """One condition on a node."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _VALUES,
            rule(
                "!(self.operator in ['Gt', 'Lt']) || (self.values.size() == 1 && "
                "self.values[0].matches('^-?[0-9]{1,18}$'))",
                "matchExpressions.values has %d entries with operator %s, which compares with a number: write one "
                "integer",
                "self.values.size()",
                "self.operator",
                at=".values",
            ),
        )
    )

    key: LabelKey = Field(description="Label (or, in matchFields, field) of the node.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(
        description="How it relates to values: In, NotIn, Exists, DoesNotExist, Gt or Lt."
    )
    values: list[_NodeValue] = Field(
        default=[], max_length=64, description="Values for In and NotIn, one integer for Gt and Lt; else empty."
    )


class NodeSelectorTerm(Model):
    """Conditions on a node that must all hold."""

    match_expressions: list[NodeRequirement] = Field(
        default=[], max_length=32, description="Conditions on the node's labels."
    )
    match_fields: list[NodeRequirement] = Field(
        default=[], max_length=32, description="Conditions on the node's fields, such as metadata.name."
    )


class RequiredNodes(Model):
    """Nodes that are good enough."""

    node_selector_terms: list[NodeSelectorTerm] = Field(
        min_length=1, max_length=32, description="Terms of which one must hold."
    )


class PreferredNodes(Model):
    """Nodes that are better than others."""

    weight: int = Field(ge=1, le=100, description="How much better, from 1 to 100.")
    preference: NodeSelectorTerm = Field(description="What makes a node better.")


class NodeAffinity(Model):
    """Which nodes the pods want."""

    required_during_scheduling_ignored_during_execution: RequiredNodes | None = Field(
        default=None, description="Nodes that the pods may run on. Absent: all."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredNodes] = Field(
        default=[], max_length=32, description="Nodes that the pods would rather run on."
    )


class PodTerm(Model):
    """Pods to be near to, or far from."""

    label_selector: LabelSelector | None = Field(default=None, description="Which pods. Absent: none.")
    namespaces: list[_Namespace] = Field(
        default=[], max_length=64, description="Namespaces of those pods. Empty: the pool's own."
    )
    namespace_selector: LabelSelector | None = Field(
        default=None, description="Namespaces of those pods, by their labels. Absent: only the ones named."
    )
    topology_key: LabelKey = Field(description="Node label whose equal values mean near.")
    match_label_keys: list[LabelKey] = Field(
        default=[], max_length=16, description="Labels whose own value in a pod narrows the selector."
    )
    mismatch_label_keys: list[LabelKey] = Field(
        default=[], max_length=16, description="Labels whose own value in a pod is excluded from the selector."
    )


class WeightedPodTerm(Model):
    """A preference among placements."""

    weight: int = Field(ge=1, le=100, description="How much better, from 1 to 100.")
    pod_affinity_term: PodTerm = Field(description="Pods to be near to, or far from.")


class PodAffinity(Model):
    """Which pods these want to be near to, or far from."""

    required_during_scheduling_ignored_during_execution: list[PodTerm] = Field(
        default=[], max_length=32, description="What must hold for a pod to be scheduled."
    )
    preferred_during_scheduling_ignored_during_execution: list[WeightedPodTerm] = Field(
        default=[], max_length=32, description="What should hold."
    )


class Affinity(Model):
    """Kubernetes' affinity rules."""

    node_affinity: NodeAffinity | None = Field(default=None, description="Which nodes the pods want. Absent: any.")
    pod_affinity: PodAffinity | None = Field(default=None, description="Pods to be near to. Absent: none.")
    pod_anti_affinity: PodAffinity | None = Field(default=None, description="Pods to be far from. Absent: none.")
