"""A message of the bus as AOS sees it, whichever runtime received it, and how it is put off.

Abandoning a message has the broker deliver it again at once, which burns its delivery count within seconds. So what
cannot be handled now is sent again as command `redeliver` to the command queue of its role, to be delivered later.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, Field

from aos.errors import AosError
from aos.kernel.types import Origin
from aos.messaging.bus import Outbound
from aos.messaging.envelopes import EnvelopeInvalid, parse_body

REPLAY = "aos-replay"
"""Application property: the attempt that a replayed message starts, or the last one of a parked message."""
ATTEMPT = "aos-attempt"
"""Application property of a message that was put off: how often that was."""
LONGEST_DELAY = 300.0
LONGEST_ID = 128
"""Characters of a MessageId, CorrelationId or SessionId that Service Bus takes."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A received message.

    Attributes:
        entity: Where it was received, without the subscription.
        attempt: How often AOS put it off already.
        replay: 1, or the attempt that an operator starts with it.
    """

    entity: str
    body: bytes
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    session_id: str | None = None
    attempt: int = 0
    replay: int = 1


class _Wrapped(BaseModel):
    entity: str
    body: str
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    session_id: str | None = None
    attempt: int = 1
    replay: int = Field(default=1, ge=1, le=1_000_000)


def put_off(incoming: Incoming, queue: str, delay: float | None = None) -> Outbound:
    """The message that brings a copy of another one later; its body may need packing.

    Args:
        queue: The command queue of the role that handles the message.
        delay: Seconds; without it 1 s, doubling with every attempt, up to 5 minutes, up to a fifth less: what was put
            off together should not come back together.
    """
    wrapped = {
        "entity": incoming.entity,
        "body": base64.b64encode(incoming.body).decode(),
        "message_id": incoming.message_id,
        "correlation_id": incoming.correlation_id,
        "reply_to": incoming.reply_to,
        "reply_to_session_id": incoming.reply_to_session_id,
        "session_id": incoming.session_id,
        "attempt": incoming.attempt + 1,
        "replay": incoming.replay,
    }
    body = json.dumps({"command": "redeliver", "params": wrapped}).encode()
    message_id = short_id(f"{incoming.message_id or uuid.uuid4().hex}.again{incoming.attempt + 1}")
    if delay is None:
        delay = min(2.0 ** min(incoming.attempt, 16), LONGEST_DELAY)
        delay *= random.uniform(0.8, 1.0)  # noqa: S311 - jitter, not a secret
    return Outbound(queue, body, message_id, delay=delay, properties={ATTEMPT: incoming.attempt + 1})


def taken_up(params: Mapping[str, object], entities: Collection[str]) -> Incoming:
    """The message in the `params` of a `redeliver` command.

    Args:
        entities: Where it may have come from.

    Raises:
        EnvelopeInvalid: It is not one of ours.
    """
    wrapped = parse_body(_Wrapped, json.dumps(dict(params)).encode())
    if wrapped.entity not in entities:
        raise EnvelopeInvalid(f"/params/entity: {wrapped.entity!r} is none of {', '.join(sorted(entities))}")
    try:
        body = base64.b64decode(wrapped.body, validate=True)
    except ValueError:
        raise EnvelopeInvalid("/params/body: is not base64") from None
    return Incoming(**{**wrapped.model_dump(), "body": body})


def origin(incoming: Incoming, packed: bytes) -> Origin:
    """What is kept of a message, for parking it should its turn fail.

    Args:
        packed: Its body as it was sent.
    """
    return Origin(
        incoming.entity,
        incoming.message_id or "",
        packed.decode(errors="replace"),
        incoming.correlation_id,
        incoming.reply_to,
        incoming.reply_to_session_id,
        incoming.session_id,
    )


def replay_number(value: object) -> int:
    """The property `aos-replay` of a message; 1 for what is none."""
    try:
        number = int(str(value))
    except ValueError:
        return 1
    return number if 1 <= number <= 1_000_000 else 1


def short_id(text: str) -> str:
    """The text, or its hash where it is longer than an id may be."""
    return text if len(text) <= LONGEST_ID else hashlib.sha256(text.encode()).hexdigest()


def reason(error: AosError) -> str:
    """An error's code as a dead-letter reason: `unknown_agent` becomes `UnknownAgent`."""
    return as_reason(error.code)


def as_reason(code: str) -> str:
    """An error code as a dead-letter reason."""
    return "".join(word.capitalize() for word in code.split("_"))
