"""An app whose Redis options put messages where the resource does not look is refused before it takes one."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from greenworker.brokers.redis.options import merge_options
from greenworker.environment import Environment
from greenworker.misconfigured import MisconfiguredError


def merged(options: dict[str, Any], **environ: str) -> dict[str, Any]:
    app = Celery("app", broker="redis://127.0.0.1/0", set_as_current=False)
    app.conf.broker_transport_options = options
    merge_options(app, Environment.read({"GREENWORKER_POOL": "shop/feeds", **environ}), "")
    return dict(app.conf.broker_transport_options)


@pytest.mark.parametrize(
    ("options", "environ", "field", "value", "fix"),
    [
        ({"global_keyprefix": "shop:"}, {}, "broker.keyPrefix", "", "set broker.keyPrefix to 'shop:'"),
        ({"global_keyprefix": "shop:"}, {"GREENWORKER_KEY_PREFIX": "eu:"}, "broker.keyPrefix", "eu:", "'shop:'"),
        ({"global_keyprefix": ""}, {"GREENWORKER_KEY_PREFIX": "eu:"}, "broker.keyPrefix", "eu:", "remove"),
        ({"priority_steps": [0, 1, 2]}, {}, "broker.prioritySteps", "0,3,6,9", "[0, 1, 2]"),
        ({"priority_steps": [0, 5]}, {"GREENWORKER_PRIORITY_STEPS": "0,4"}, "broker.prioritySteps", "0,4", "[0, 5]"),
        ({"sep": ":"}, {}, "app", "broker_transport_options['sep'] = ':'", "remove sep"),
        ({"unacked_key": "mine"}, {}, "app", "broker_transport_options['unacked_key'] = 'mine'", "remove"),
        ({"ack_emulation": False}, {}, "app", "broker_transport_options['ack_emulation'] = False", "remove"),
    ],
)
def test_what_the_exporter_would_not_see_is_refused_in_four_parts(
    options: dict[str, Any], environ: dict[str, str], field: str, value: str, fix: str
) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        merged(options, **environ)
    assert (caught.value.field, caught.value.value) == (field, value)
    assert fix in caught.value.fix
    assert caught.value.reason


def test_what_app_and_resource_agree_on_is_used() -> None:
    options = {"global_keyprefix": "shop:", "priority_steps": [2, 0], "visibility_timeout": 600, "sep": "\x06\x16"}
    found = merged(options, GREENWORKER_KEY_PREFIX="shop:", GREENWORKER_PRIORITY_STEPS="0,2")
    assert found.items() >= {"global_keyprefix": "shop:", "priority_steps": [0, 2], "visibility_timeout": 600}.items()


def test_what_only_the_resource_says_is_used() -> None:
    found = merged({}, GREENWORKER_KEY_PREFIX="shop:", GREENWORKER_PRIORITY_STEPS="0,2")
    assert (found["global_keyprefix"], found["priority_steps"]) == ("shop:", [0, 2])
