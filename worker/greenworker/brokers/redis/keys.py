"""The names of what this project and kombu keep in Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Keys:
    """Redis keys of one broker, prefix included."""

    unacked: str
    index: str
    workers: str
    held: str
    held_prefix: str

    @classmethod
    def of(cls, channel: Any, worker: str) -> Keys:
        """The keys that *channel* is configured to use."""
        prefix = channel.global_keyprefix
        held_prefix = f"{prefix}greenworker.held."
        return cls(
            unacked=prefix + channel.unacked_key,
            index=prefix + channel.unacked_index_key,
            workers=f"{prefix}greenworker.workers",
            held=held_prefix + worker,
            held_prefix=held_prefix,
        )


@dataclass(frozen=True, slots=True)
class MailboxKeys:
    """What Celery's remote control uses, without prefixes."""

    exchange: str
    keys: tuple[str, ...]

    @classmethod
    def of(cls, mailbox: Any, hostname: str) -> MailboxKeys:
        """*mailbox*: kombu's, of the app."""
        queue, answers = mailbox.get_queue(hostname), mailbox.get_reply_queue()
        bindings = [f"_kombu.binding.{each.exchange.name}" for each in (queue, answers)]
        return cls(queue.exchange.name, (queue.name, answers.name, *bindings))


def readable(raw: str | bytes) -> str:
    """A key, or what else Redis has said, as a log has it. Somebody else may have written it."""
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw
