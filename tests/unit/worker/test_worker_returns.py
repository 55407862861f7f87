"""Which way back to the broker counts as a delivery in vain, by its version; and what its refusals say."""

from __future__ import annotations

from typing import Any

import pytest
from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from greenworker.brokers.amqp.returns import limit_of, nack_is_free
from greenworker.brokers.declarations import refused_declaration


@pytest.mark.parametrize(
    ("product", "version", "free"),
    [
        ("RabbitMQ", "3.10.8", False),
        ("RabbitMQ", "4.0.5", False),
        ("RabbitMQ", "4.2.1", False),
        ("RabbitMQ", "4.3.0", True),
        ("RabbitMQ", "4.10.2", True),
        ("RabbitMQ", "5.0.0-rc.1", True),
        ("LavinMQ", "5.0.0", False),
        ("RabbitMQ", "", False),
        ("", "4.3.0", False),
    ],
)
def test_a_nack_costs_no_delivery_from_rabbitmq_4_3_on(product: str, version: str, free: bool) -> None:
    assert nack_is_free({"product": product, "version": version}) is free


class Declared:
    def __init__(self, **arguments: Any) -> None:
        self.queue_arguments = {name.replace("_", "-"): value for name, value in arguments.items()}


@pytest.mark.parametrize(
    ("queue", "version", "limit"),
    [
        (Declared(), "4.0.5", 20),
        (Declared(), "3.13.7", None),
        (Declared(x_delivery_limit=3), "3.10.8", 3),
        (Declared(x_delivery_limit=0), "4.1.0", 0),
        (Declared(x_delivery_limit=-1), "4.1.0", None),
        (None, "4.0.5", 20),
    ],
)
def test_the_limit_is_the_queues_own_or_the_brokers(queue: Any, version: str, limit: int | None) -> None:
    assert limit_of(queue, {"product": "RabbitMQ", "version": version}) == limit


def test_a_refused_declaration_names_the_argument_and_both_values() -> None:
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'feeds' in vhost 'shop': received the "
        "value 'quorum' of type "
        "'longstr' but current is the value 'classic' of type 'longstr'"
    )
    said = refused_declaration(PreconditionFailed(text, (50, 10)))
    assert said is not None
    assert said.value == "queue feeds: x-queue-type=quorum"
    assert "vhost shop with x-queue-type=classic" in said.reason
    assert "declare x-queue-type=classic" in said.fix
    assert "delete it" in said.fix
    durable = (
        "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'e' in vhost '/': received 'false' "
        "but current is 'true'"
    )
    other = refused_declaration(PreconditionFailed(durable, (40, 10)))
    assert other is not None
    assert other.value == "exchange e: durable=false"


@pytest.mark.parametrize(
    "error",
    [
        PreconditionFailed(
            "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms."
        ),
        PreconditionFailed("PRECONDITION_FAILED - unknown delivery tag 7"),
        AccessRefused("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"),
        NotFound("NOT_FOUND - no vhost"),
        OSError("broken pipe"),
        ValueError("x"),
    ],
)
def test_what_is_no_refused_declaration_stays_what_it_is(error: Exception) -> None:
    assert refused_declaration(error) is None
