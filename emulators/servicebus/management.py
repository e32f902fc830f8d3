"""The request/response nodes: ``$cbs`` (claims-based security) and ``{entity}/$management``.

A request is a message whose application properties name the operation and whose value is a map; so is the response,
with a status code. What an operation takes and gives is what the Azure SDKs send and read.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from emulators.servicebus import codec
from emulators.servicebus.broker import Broker
from emulators.servicebus.codec import Encoded, Symbol, Value
from emulators.servicebus.errors import (
    ARGUMENT_ERROR,
    MESSAGE_LOCK_LOST,
    MESSAGE_NOT_FOUND,
    MESSAGE_SIZE_EXCEEDED,
    NOT_FOUND,
    NOT_IMPLEMENTED,
    RESOURCE_LIMIT_EXCEEDED,
    SESSION_LOCK_LOST,
    AmqpError,
)
from emulators.servicebus.message import APPLICATION_PROPERTIES, PROPERTIES, VALUE, Message, sections
from emulators.servicebus.message_queue import MessageQueue, Outcome
from emulators.servicebus.sessions import Consumer, SessionLock

MAX_RESPONSE_BYTES: Final = 8 << 20
MAX_ITEMS: Final = 4096
"""Messages, lock tokens or sequence numbers in one request."""
# The SDKs ask for sessions "changed after the end of time" when they mean all sessions with messages or state.
_END_OF_TIME_MS: Final = 253_402_300_800_000

_STATUS: Final = {
    ARGUMENT_ERROR: 400,
    MESSAGE_SIZE_EXCEEDED: 403,
    RESOURCE_LIMIT_EXCEEDED: 403,
    NOT_FOUND: 404,
    MESSAGE_NOT_FOUND: 404,
    MESSAGE_LOCK_LOST: 410,
    SESSION_LOCK_LOST: 410,
    NOT_IMPLEMENTED: 501,
}
_SETTLEMENTS: Final = {
    "completed": Outcome.COMPLETE,
    "abandoned": Outcome.ABANDON,
    "defered": Outcome.DEFER,
    "suspended": Outcome.DEAD_LETTER,
}

FindConsumer = Callable[[str], Consumer | None]
"""Finds the receiver's link of a given name among those of the connection that asks."""


class Request:
    """A parsed request; the identifier is echoed byte for byte so that its type survives."""

    def __init__(self, data: bytes) -> None:
        """Raises `DecodeError` if this is not a request."""
        self.message_id: bytes = codec.NULL
        self.reply_to: str | None = None
        self.properties: dict[str, Value] = {}
        self.body: Value = None
        for section in sections(data):
            if section.code == PROPERTIES:
                if section.fields:
                    self.message_id = codec.encode(_same_type(data, section.value, section.stop, section.fields[0]))
                reply_to = section.fields[4] if len(section.fields) > 4 else None
                self.reply_to = reply_to if isinstance(reply_to, str) else None
            elif section.code == APPLICATION_PROPERTIES:
                self.properties = {key: codec.decode(raw, 0, len(raw))[0] for key, raw in section.entries}
            elif section.code == VALUE:
                self.body = codec.decode(data, section.value, section.stop)[0]

    def text(self, name: str) -> str:
        """A text among the application properties; empty if it is absent."""
        value = self.properties.get(name)
        return value if isinstance(value, str) else ""


def _same_type(data: bytes, position: int, stop: int, value: Value) -> Value:
    """The first item of a non-empty list, as it stands on the wire."""
    start = position + (3 if data[position] == 0xC0 else 9)
    return Encoded(data[start : codec.decode(data, start, stop)[1]])


def grant_token(data: bytes) -> tuple[Request, bytes]:
    """Answer a put-token request. Every token is taken: the emulator guards nothing."""
    request = Request(data)
    known = request.text("operation") == "put-token"
    status, text = (202, "Accepted") if known else (501, "Only put-token is emulated.")
    return request, _response(request, {"status-code": codec.int32(status), "status-description": text}, None)


class Management:
    """The operations of ``$management`` on the entities of a broker."""

    def __init__(self, broker: Broker, clock: Callable[[], int], max_message_bytes: int) -> None:
        self._broker = broker
        self._clock = clock
        self._max_message_bytes = max_message_bytes
        self._operations: dict[str, Callable[[_Call], Mapping[str, Value] | None]] = {
            "schedule-message": self._schedule,
            "cancel-scheduled-message": self._cancel,
            "peek-message": self._peek,
            "receive-by-sequence-number": self._receive_deferred,
            "renew-lock": self._renew_lock,
            "update-disposition": self._settle,
            "renew-session-lock": self._renew_session,
            "get-session-state": self._get_session_state,
            "set-session-state": self._set_session_state,
            "get-message-sessions": self._list_sessions,
        }

    def answer(self, path: str, data: bytes, find_consumer: FindConsumer) -> tuple[Request, bytes]:
        """Perform a request on the entity at `path`; returns it and the encoded response.

        Raises `DecodeError` only if the request cannot be told apart from noise; every refusal is a response.
        """
        request = Request(data)
        status, text, body, condition = 200, "OK", None, None
        try:
            body = self._perform(path, request, find_consumer)
            if body is None:
                status, text = 204, "No Content"
        except AmqpError as error:
            status, text, condition = _STATUS.get(error.condition, 400), error.description, error.condition
        answer: dict[str, Value] = {"statusCode": codec.int32(status), "statusDescription": text}
        if condition is not None:
            answer["errorCondition"] = Symbol(condition)
        return request, _response(request, answer, body)

    def _perform(self, path: str, request: Request, find_consumer: FindConsumer) -> Mapping[str, Value] | None:
        name = request.text("operation").removeprefix("com.microsoft:")
        operation = self._operations.get(name)
        if operation is None:
            raise AmqpError(NOT_IMPLEMENTED, f"The operation '{name}' is not emulated.")
        if not isinstance(request.body, Mapping):
            raise AmqpError(ARGUMENT_ERROR, "The body of a request has to be a map.")
        consumer = find_consumer(request.text("associated-link-name"))
        return operation(_Call(self._broker.entity(path), path, request.body, consumer))

    def _schedule(self, call: _Call) -> Mapping[str, Value]:
        target = self._broker.destination(call.path)
        messages = []
        for item in call.sequence("messages"):
            encoded = item.get("message") if isinstance(item, Mapping) else None
            if not isinstance(encoded, bytes):
                raise AmqpError(ARGUMENT_ERROR, "Every item of 'messages' needs an encoded 'message'.")
            if len(encoded) > self._max_message_bytes:
                raise AmqpError(
                    MESSAGE_SIZE_EXCEEDED,
                    f"The message is larger than {self._max_message_bytes} bytes; make it smaller.",
                )
            message = Message.parse(encoded)
            if message.scheduled_ms is None:
                raise AmqpError(ARGUMENT_ERROR, "A scheduled message needs x-opt-scheduled-enqueue-time.")
            messages.append(message)
        return {"sequence-numbers": codec.long_array(target.publish(messages))}

    def _cancel(self, call: _Call) -> Mapping[str, Value]:
        call.queue.cancel_scheduled(call.integers("sequence-numbers"))
        return {}

    def _peek(self, call: _Call) -> Mapping[str, Value] | None:
        first, wanted = call.integer("from-sequence-number"), call.integer("message-count")
        found: list[Value] = []
        size = 0
        for entry in call.queue.peek(first, call.optional_text("session-id")):
            size += entry.message.size
            if len(found) >= min(wanted, MAX_ITEMS) or (found and size > MAX_RESPONSE_BYTES):
                break
            found.append({"message": entry.encode()})
        return {"messages": found} if found else None

    def _receive_deferred(self, call: _Call) -> Mapping[str, Value]:
        mode = call.integer("receiver-settle-mode")
        session = call.session()
        entries = call.queue.deferred(call.integers("sequence-numbers"))
        if session is not None and any(entry.message.session_id != session.session_id for entry in entries):
            raise AmqpError(MESSAGE_NOT_FOUND, f"Not all of these messages are in session '{session.session_id}'.")
        if sum(entry.message.size for entry in entries) > MAX_RESPONSE_BYTES:
            raise AmqpError(MESSAGE_SIZE_EXCEEDED, "The messages do not fit in one response; ask for fewer of them.")
        found: list[Value] = []
        for entry in entries:
            if mode == 0:
                call.queue.remove_deferred(entry)
                found.append({"message": entry.encode()})
            else:
                token, until_ms = call.queue.lock_deferred(entry, session)
                found.append({"message": entry.encode(until_ms), "lock-token": uuid.UUID(bytes_le=token)})
        return {"messages": found}

    def _renew_lock(self, call: _Call) -> Mapping[str, Value]:
        return {"expirations": codec.timestamp_array(call.queue.renew_lock(call.tokens()))}

    def _settle(self, call: _Call) -> Mapping[str, Value]:
        outcome = _SETTLEMENTS.get(call.text("disposition-status"))
        if outcome is None:
            raise AmqpError(ARGUMENT_ERROR, f"'disposition-status' has to be one of {', '.join(_SETTLEMENTS)}.")
        reason, description = call.optional_text("deadletter-reason"), call.optional_text("deadletter-description")
        for token in call.tokens():
            call.queue.settle(token, outcome, reason, description)
        return {}

    def _renew_session(self, call: _Call) -> Mapping[str, Value]:
        return {"expiration": codec.timestamp(call.queue.renew_session(call.required_session()))}

    def _get_session_state(self, call: _Call) -> Mapping[str, Value]:
        return {"session-state": call.queue.session_state(call.required_session().session_id)}

    def _set_session_state(self, call: _Call) -> Mapping[str, Value]:
        state = call.body.get("session-state")
        if not (state is None or isinstance(state, bytes)):
            raise AmqpError(ARGUMENT_ERROR, "'session-state' has to be binary or null.")
        if state is not None and len(state) > self._max_message_bytes:
            raise AmqpError(
                MESSAGE_SIZE_EXCEEDED, f"The state of a session is limited to {self._max_message_bytes} bytes."
            )
        call.queue.set_session_state(call.required_session().session_id, state)
        return {}

    def _list_sessions(self, call: _Call) -> Mapping[str, Value] | None:
        after = call.integer("last-updated-time")
        names = call.queue.session_ids(None if after >= _END_OF_TIME_MS else after)
        skip, top = call.integer("skip"), call.integer("top")
        page = names[max(skip, 0) :][: max(min(top, MAX_ITEMS), 0)]
        return {"skip": codec.int32(skip + len(page)), "sessions-ids": page} if page else None


class _Call:
    """One request on one entity: its arguments, checked as they are read."""

    def __init__(
        self,
        queue: MessageQueue,
        path: str,
        body: Mapping[Value, Value] | Mapping[str, Value],
        consumer: Consumer | None,
    ) -> None:
        self.queue = queue
        self.path = path
        self.body = body
        self._consumer = consumer

    def sequence(self, name: str) -> Sequence[Value]:
        value = self.body.get(name)
        if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not 0 < len(value) <= MAX_ITEMS:
            raise AmqpError(ARGUMENT_ERROR, f"'{name}' has to be a list of 1 to {MAX_ITEMS} items.")
        return value

    def integer(self, name: str) -> int:
        value = self.body.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise AmqpError(ARGUMENT_ERROR, f"'{name}' has to be a whole number.")
        return value

    def integers(self, name: str) -> list[int]:
        values = [value for value in self.sequence(name) if isinstance(value, int) and not isinstance(value, bool)]
        if len(values) < len(self.sequence(name)):
            raise AmqpError(ARGUMENT_ERROR, f"'{name}' has to hold whole numbers.")
        return values

    def text(self, name: str) -> str:
        value = self.body.get(name)
        if not isinstance(value, str):
            raise AmqpError(ARGUMENT_ERROR, f"'{name}' has to be a string.")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self.body.get(name) is None else self.text(name)

    def tokens(self) -> list[bytes]:
        values = self.sequence("lock-tokens")
        tokens = [value.bytes_le for value in values if isinstance(value, uuid.UUID)]
        if len(tokens) < len(values):
            raise AmqpError(ARGUMENT_ERROR, "'lock-tokens' has to hold uuids.")
        return tokens

    def session(self) -> SessionLock | None:
        """The session that the request speaks of, which the asking link has to hold; None if it names none."""
        if not self.queue.options.requires_session:
            return None
        return self.required_session()

    def required_session(self) -> SessionLock:
        return self.queue.owned_session(self.text("session-id"), self._consumer)


def _response(request: Request, answer: Mapping[str, Value], body: Mapping[str, Value] | None) -> bytes:
    fields = [None, None, None, None, None, Encoded(request.message_id)]
    properties = codec.composite(PROPERTIES, fields)
    return b"".join(
        (
            properties,
            codec.section(APPLICATION_PROPERTIES, codec.encode(answer)),
            codec.section(VALUE, codec.encode(body)),
        )
    )
