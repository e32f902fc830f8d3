"""Messages that AOS could not handle: read, and sent again by an operator.

They lie in two kinds of places: queue `aos-poison`, where AOS parks what can never succeed by itself, and the
dead-letter queues of the entities that AOS receives from, where the broker puts what was delivered too often, or
expired.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aos.errors import AosError, BusUnavailable, UnknownEntity
from aos.messaging.bus import Bus, Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import (
    AGENT_COMMANDS,
    AGENT_EVENTS,
    AOS_REQUESTS,
    MCP_COMMANDS,
    MCP_REQUESTS,
    MCP_RESPONSES,
    POISON,
    EnvelopeInvalid,
)
from aos.messaging.incoming import REPLAY, Incoming, put_off, replay_number, short_id

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage
    from azure.servicebus.aio import ServiceBusReceiver

SUBSCRIPTIONS = {AGENT_EVENTS: "realm-agents", MCP_RESPONSES: "realm-agents", MCP_REQUESTS: "mcp-servers"}
HANDED_OVER = {AGENT_EVENTS: AGENT_COMMANDS, MCP_RESPONSES: AGENT_COMMANDS, MCP_REQUESTS: MCP_COMMANDS}
"""Where a message of a topic is sent again: others subscribe to the topic itself."""
PLACES: Mapping[str, tuple[str, bool]] = {POISON: (POISON, False)} | {
    f"{entity}.dead": (entity, True)
    for entity in (AGENT_EVENTS, AGENT_COMMANDS, MCP_REQUESTS, MCP_RESPONSES, MCP_COMMANDS, AOS_REQUESTS, POISON)
}
"""Where letters lie, by the name that operators use: the entity, and whether its dead-letter queue is meant."""
PAGE = 100
PATIENCE = 2.0
"""Seconds to wait for a message that is not there."""


class UnknownLetter(AosError):
    code = "unknown_dead_letter"
    title = "There is no such dead letter."


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that was not handled.

    Attributes:
        id: `{place}:{sequence number}`.
        source: The entity that it was received from, or, of a reply, where it was to go.
        attempt: The last attempt of its operation.
        operation_id: Of the turn that failed; empty if it never became one.
    """

    id: str
    message_id: str
    source: str
    reason: str
    description: str
    enqueued_at: dt.datetime | None
    attempt: int
    operation_id: str
    body: bytes
    correlation_id: str | None
    reply_to: str | None
    reply_to_session_id: str | None
    session_id: str | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to.

    Attributes:
        sent: Letters that were sent again and removed.
        held: Letters that were wanted and were there, and could not be received: another receiver holds them, unless it
            renews that for as long as the entity locks messages, or has taken them by now.
        refused: Letters that stay where they are because they cannot be sent as they are, each with the reason.
    """

    sent: tuple[Letter, ...]
    held: tuple[Letter, ...]
    refused: tuple[tuple[Letter, str], ...] = ()


class DeadLetters:
    """Lists and replays dead letters."""

    def __init__(self, bus: Bus, claim_check: ClaimCheck) -> None:
        self._bus = bus
        self._claim_check = claim_check

    async def letters(self, limit: int, places: Sequence[str] = tuple(PLACES)) -> list[Letter]:
        """Up to `limit` letters of each place, oldest first; nothing is received.

        Raises:
            BusUnavailable: The namespace does not answer.
            UnknownLetter: A place is none of `PLACES`.
        """

        async def look(place: str) -> list[Letter]:
            async with self._receiver(place) as receiver:
                return [] if receiver is None else await self._peek(receiver, place, limit)

        # At once: opening a receiver takes half a second.
        found = await asyncio.gather(*map(look, places))
        return [letter for letters in found for letter in letters]

    async def show(self, letter_id: str) -> Letter:
        """One letter; its body is fetched if it lies in a blob.

        Raises:
            UnknownLetter: It is not there (any more).
        """
        place, number = _parsed(letter_id)
        async with self._receiver(place) as receiver:
            messages = [] if receiver is None else await receiver.peek_messages(1, sequence_number=number)
        letters = [_letter(message, place) for message in messages if message.sequence_number == number]
        if not letters:
            raise UnknownLetter(f"{place} has no message {number}; `dead-letters list` shows what there is.")
        return replace(letters[0], body=await self._claim_check.unpack(letters[0].body))

    async def replay(self, wanted: Callable[[Letter], bool], places: Sequence[str], limit: int) -> Replayed:
        """Sends letters again, then removes them.

        A letter that is sent but not removed (this process dies in between) does no harm when it is replayed once more:
        its number starts one attempt of its operation. Letters that are received and not wanted are given back, which
        counts as a delivery; a parked one may so come to `aos-poison.dead`, where it is listed all the same.

        Args:
            limit: Letters looked at in each place.
        """

        async def look(place: str) -> Replayed:
            async with self._receiver(place) as receiver:
                if receiver is None:
                    return Replayed((), ())
                there = {letter.id: letter for letter in await self._peek(receiver, place, limit) if wanted(letter)}
                if not there:
                    return Replayed((), ())
                sent, refused = await self._replay(receiver, place, there.keys(), limit)
                had = {letter.id for letter in (*sent, *(letter for letter, _ in refused))}
                held = (letter for letter in there.values() if letter.id not in had)
                return Replayed(tuple(sent), tuple(held), tuple(refused))

        found = await asyncio.gather(*map(look, places))
        return Replayed(
            sent=tuple(letter for each in found for letter in each.sent),
            held=tuple(letter for each in found for letter in each.held),
            refused=tuple(refusal for each in found for refusal in each.refused),
        )

    async def _peek(self, receiver: ServiceBusReceiver, place: str, limit: int) -> list[Letter]:
        found: list[Letter] = []
        next_number = 0
        while len(found) < limit:
            page = await receiver.peek_messages(min(PAGE, limit - len(found)), sequence_number=next_number)
            if not page:
                break
            found += [_letter(message, place) for message in page]
            next_number = (page[-1].sequence_number or 0) + 1
        return found

    async def _replay(
        self, receiver: ServiceBusReceiver, place: str, wanted: Set[str], limit: int
    ) -> tuple[list[Letter], list[tuple[Letter, str]]]:
        from azure.servicebus.exceptions import MessageLockLostError

        sent: list[Letter] = []
        refused: list[tuple[Letter, str]] = []
        others: list[ServiceBusReceivedMessage] = []
        full: dict[str, str] = {}
        try:
            while len(sent) + len(refused) < len(wanted) and len(sent) + len(others) < limit:
                count = min(PAGE, limit - len(sent) - len(others))
                page = await receiver.receive_messages(count, max_wait_time=PATIENCE)
                if not page:
                    break
                for message in page:
                    letter = _letter(message, place)
                    if letter.id not in wanted:
                        others.append(message)
                        continue
                    try:
                        again = await self._again(letter)
                        if again.entity in full:
                            raise BusUnavailable(full[again.entity])
                        await self._bus.send([again])
                    except (UnknownEntity, EnvelopeInvalid, BusUnavailable) as error:
                        # The next ones may go elsewhere.
                        refused.append((letter, error.detail))
                        others.append(message)
                        if isinstance(error, BusUnavailable):
                            # To try it for each letter would outlast their locks.
                            full[again.entity] = error.detail
                        continue
                    try:
                        await receiver.complete_message(message)
                    except MessageLockLostError:
                        # Its lock was over: it comes again, and twice does no harm.
                        others.append(message)
                        continue
                    sent.append(letter)
        finally:
            for message in others:
                # Given back already if its lock is over by now.
                with suppress(MessageLockLostError):
                    await receiver.abandon_message(message)
        return sent, refused

    async def _again(self, letter: Letter) -> Outbound:
        if not letter.source:
            raise UnknownEntity("It does not say where it came from, so that it cannot be sent there again.")
        number = letter.attempt + 1
        properties = {REPLAY: number}
        queue = HANDED_OVER.get(letter.source)
        if queue is None:
            return Outbound(
                letter.source,
                letter.body,
                letter.message_id,
                correlation_id=letter.correlation_id,
                reply_to=letter.reply_to,
                reply_to_session_id=letter.reply_to_session_id,
                session_id=letter.session_id,
                properties=properties,
            )
        incoming = Incoming(
            letter.source,
            letter.body,
            letter.message_id,
            letter.correlation_id,
            letter.reply_to,
            letter.reply_to_session_id,
            letter.session_id,
            replay=number,
        )
        command = put_off(incoming, queue, 0.0)
        body = await self._claim_check.pack(command.body, "redeliver")
        message_id = short_id(f"{letter.message_id}.replay{number}")
        return replace(command, body=body, message_id=message_id, properties=properties)

    @asynccontextmanager
    async def _receiver(self, place: str) -> AsyncIterator[ServiceBusReceiver | None]:
        """A receiver of a place; None if the namespace has no such entity."""
        from azure.core.exceptions import AzureError
        from azure.servicebus import ServiceBusSubQueue
        from azure.servicebus.exceptions import MessagingEntityNotFoundError

        if place not in PLACES:
            raise UnknownLetter(f"There is no place {place!r}; letters lie in {', '.join(PLACES)}.")
        entity, dead = PLACES[place]
        sub_queue = ServiceBusSubQueue.DEAD_LETTER if dead else None
        client = self._bus.client()
        if entity in SUBSCRIPTIONS:
            receiver = client.get_subscription_receiver(entity, SUBSCRIPTIONS[entity], sub_queue=sub_queue)
        else:
            receiver = client.get_queue_receiver(entity, sub_queue=sub_queue)
        try:
            try:
                await receiver.__aenter__()
            except MessagingEntityNotFoundError:
                # An app of one role may use a namespace that has only half of the entities.
                yield None
                return
            yield receiver
        except UnknownEntity:
            raise
        except (AzureError, OSError) as error:
            raise BusUnavailable(f"Service Bus does not answer for {place}: {error}") from error
        finally:
            await receiver.close()


def letter_filter(ids: Sequence[str], reason: str | None) -> tuple[Callable[[Letter], bool], list[str]]:
    """What picks the letters of these ids, or else those parked for this reason (any, if it is None).

    Returns:
        The filter, and the places to look in.

    Raises:
        UnknownLetter: An id is none.
    """
    if not ids:
        return lambda letter: reason is None or letter.reason == reason, list(PLACES)
    places = list(dict.fromkeys(_parsed(letter_id)[0] for letter_id in ids))
    return lambda letter: letter.id in ids, places


def _parsed(letter_id: str) -> tuple[str, int]:
    place, _, number = letter_id.rpartition(":")
    if place not in PLACES or not number.isdecimal():
        raise UnknownLetter(f"{letter_id!r} is no id of a dead letter, such as {POISON}:17.")
    return place, int(number)


def _letter(message: ServiceBusReceivedMessage, place: str) -> Letter:
    properties = {_text(name): _text(value) for name, value in (message.application_properties or {}).items()}
    entity, _ = PLACES[place]
    return Letter(
        id=f"{place}:{message.sequence_number}",
        message_id=_text(message.message_id),
        source=properties.get("aos-source", "") if entity == POISON else entity,
        reason=properties.get("DeadLetterReason") or message.dead_letter_reason or "",
        description=properties.get("DeadLetterErrorDescription") or message.dead_letter_error_description or "",
        enqueued_at=message.enqueued_time_utc,
        attempt=replay_number(properties.get(REPLAY)),
        operation_id=properties.get("aos-operation", ""),
        body=b"".join(message.body) if message.body_type.value == "data" else str(message).encode(),
        correlation_id=_text(message.correlation_id) or None,
        reply_to=_text(message.reply_to) or None,
        reply_to_session_id=_text(message.reply_to_session_id) or None,
        session_id=_text(message.session_id) or None,
    )


def _text(value: object) -> str:
    """AMQP strings arrive as bytes."""
    if value is None:
        return ""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
