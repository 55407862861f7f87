"""What every part of the resource's schema is made of: the base model, and strings that have one meaning everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

from greenfleet.api.rules import JsonSchema, rule
from greenfleet.api.values import DURATION_PATTERN, duration_seconds

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"


class Model(BaseModel):
    """Base of every part: camelCase in YAML, snake_case here, unknown fields refused, values frozen."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


LONGEST = "744h"
"""Longest duration anywhere in the spec: 31 days. What is evaluated or waited for has a bound by it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule on one field, written beside its type: `Annotated[str, Rule(…)]`. `values` fill the `%s` of the
    message.
    """

    expression: str
    message: str
    values: tuple[str, ...] = ("self",)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """The field's schema with the rule added to it."""
        return _with_rule(handler(core), rule(self.expression, self.message, *self.values))


@dataclass(frozen=True, slots=True)
class Within:
    """Bounds of a duration: the API server refuses what is outside (CEL). An object that is older than its bounds keeps
    working: here the nearest bound counts, and a sentence about it is added to the list that is the validation's
    context, if there is one.
    """

    field: str
    """As users write it, such as `scaling.maxWait`."""
    least: str = "0s"
    most: str = LONGEST

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The bounds in Python."""
        return core_schema.with_info_after_validator_function(self._bounded, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """The bounds in CEL. The first half keeps out what overflows CEL's durations."""
        expression = (
            f"!self.matches('[0-9]{{5}}[0-9.]*h') && duration(self) >= duration('{self.least}') && "
            f"duration(self) <= duration('{self.most}')"
        )
        message = f"{self.field} is %s, not between {self.least} and {self.most}: choose a duration between them"
        return _with_rule(handler(core), rule(expression, message, "self"))

    def _bounded(self, text: str, info: core_schema.ValidationInfo) -> str:
        nearest = self.least if duration_seconds(text) < duration_seconds(self.least) else self.most
        if duration_seconds(self.least) <= duration_seconds(text) <= duration_seconds(self.most):
            return text
        if isinstance(info.context, list):
            info.context.append(
                f"{self.field} is {text}, not between {self.least} and {self.most}, and counts as {nearest}: "
                "choose a duration between them"
            )
        return nearest


def _with_rule(schema: JsonSchema, entry: JsonSchema) -> JsonSchema:
    key = "x-kubernetes-validations"
    return {**schema, key: [*schema.get(key, ()), entry]}


def keyed(*keys: str) -> JsonSchema:
    """For a list whose entries have a key: server-side apply merges them by it, and the API server refuses two of the
    same.
    """
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


UNIQUE: JsonSchema = {"x-kubernetes-list-type": "set"}
"""For a list without an order in which nothing stands twice."""

Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=32)]
ObjectName = Annotated[str, Field(pattern=DNS_SUBDOMAIN, min_length=1, max_length=253)]
SecretKey = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253)]
StringMap = Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=64)]
LabelKey = Annotated[str, Field(pattern=LABEL_KEY, min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE, max_length=63)]
LabelMap = Annotated[dict[str, LabelValue], Field(max_length=64)]
