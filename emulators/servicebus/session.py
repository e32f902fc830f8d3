"""AMQP sessions (AMQP 1.0 part 2.5): windows, deliveries, and the links that they open and close."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from emulators.servicebus import codec, frames
from emulators.servicebus.codec import Described, Symbol, Value
from emulators.servicebus.errors import (
    HANDLE_IN_USE,
    INVALID_FIELD,
    MESSAGE_LOCK_LOST,
    TIMEOUT,
    UNATTACHED_HANDLE,
    AmqpError,
    DecodeError,
)
from emulators.servicebus.frames import Attach, Begin, Disposition, Fields, Flow, Transfer
from emulators.servicebus.links import (
    CBS,
    MANAGEMENT,
    WINDOW,
    DetachedLink,
    EntitySender,
    IncomingLink,
    Link,
    Receiver,
    RequestLink,
    ResponseLink,
)
from emulators.servicebus.message_queue import MessageQueue, Outcome
from emulators.servicebus.sessions import SessionLock, SessionRequest

if TYPE_CHECKING:
    from emulators.servicebus.connection import Connection

HANDLE_MAX: Final = 255
MAX_UNSETTLED: Final = 10_000
"""Deliveries of one session that the receiver has not settled; beyond it, it gets no more."""
_SESSION_FILTER: Final = "com.microsoft:session-filter"
_SESSION_TIMEOUT: Final = "com.microsoft:timeout"
_DEFAULT_SESSION_TIMEOUT_MS: Final = 60_000
_MAX_SESSION_TIMEOUT_MS: Final = 600_000
# Ticks of 100 ns between year 1, where .NET starts to count, and the Unix epoch.
_DOTNET_EPOCH_TICKS: Final = 621_355_968_000_000_000

_REJECTED: Final = frames.outcome(frames.REJECTED)
_RELEASED: Final = frames.outcome(frames.RELEASED)


class Session:
    """An AMQP session: links, windows and the deliveries that are not settled yet."""

    def __init__(self, connection: Connection, channel: int, begin: Begin) -> None:
        self.connection = connection
        self.channel = channel
        self.links: dict[int, Link] = {}
        self.unsettled: dict[int, tuple[MessageQueue, bytes]] = {}
        self._next_incoming_id = begin.next_outgoing_id
        self._next_outgoing_id = 0
        self._next_delivery_id = 0
        self._remote_window = begin.incoming_window
        self._blocked: deque[tuple[Link, bytes]] = deque()  # transfer frames that wait for the peer's window
        fields = [
            codec.ushort(channel),
            codec.uint(0),
            codec.uint(WINDOW),
            codec.uint(WINDOW),
            codec.uint(HANDLE_MAX),
        ]
        self.send(codec.composite(frames.BEGIN, fields))

    def close(self) -> None:
        """Close every link: the session, or its connection, has ended."""
        for link in self.links.values():
            link.close()
        self.links.clear()
        self._hold(deque())

    def wake_queues(self) -> None:
        """Try again to deliver: something that held deliveries up is gone."""
        for link in self.links.values():
            if isinstance(link, Receiver):
                self.connection.server.broker.wake(link.queue)

    # ---- sending

    def send(self, performative: bytes) -> None:
        """Send a performative without payload."""
        self.connection.send(frames.frame(self.channel, performative))

    def send_flow(self, link: Link, *, drain: bool = False) -> None:
        """Tell the state of the session and of a link."""
        fields: list[Value] = [
            codec.uint(self._next_incoming_id),
            codec.uint(WINDOW),
            codec.uint(self._next_outgoing_id),
            codec.uint(WINDOW),
            codec.uint(link.handle),
            codec.uint(link.delivery_count),
            codec.uint(max(link.credit, 0)),
        ]
        if drain:
            fields += [None, True]
        self.send(codec.composite(frames.FLOW, fields))

    def can_send(self) -> bool:
        """Whether a message that is sent now goes out at once, and may stay unsettled."""
        if self._blocked or self._remote_window == 0 or not self.connection.can_take():
            return False
        if len(self.unsettled) >= MAX_UNSETTLED:
            self.unsettled = {number: held for number, held in self.unsettled.items() if held[0].holds(held[1])}
        return len(self.unsettled) < MAX_UNSETTLED

    def send_message(self, link: Link, payload: bytes, tag: bytes, *, settled: bool) -> int:
        """Send one delivery, in as many frames as it takes; returns the delivery id."""
        number = self._next_delivery_id
        self._next_delivery_id = (number + 1) & frames.UINT_MAX
        room = self.connection.payload_room
        last = max(len(payload) - 1, 0) // room
        for part in range(last + 1):
            head = frames.transfer(link.handle, number, tag, settled=settled, more=part < last)
            chunk = payload if last == 0 else payload[part * room : (part + 1) * room]
            frame = frames.frame(self.channel, head + chunk)
            self._blocked.append((link, frame))
            self.connection.held_back += len(frame)
        self._send_blocked()
        return number

    def _send_blocked(self) -> None:
        while self._blocked and self._remote_window > 0:
            self._remote_window -= 1
            self._next_outgoing_id = (self._next_outgoing_id + 1) & frames.UINT_MAX
            frame = self._blocked.popleft()[1]
            self.connection.held_back -= len(frame)
            self.connection.send(frame)

    # ---- links

    def on_attach(self, attach: Attach) -> None:
        if attach.handle > HANDLE_MAX:
            raise AmqpError(INVALID_FIELD, f"attach.handle is above the announced handle-max of {HANDLE_MAX}.")
        if not isinstance(self.links.get(attach.handle), DetachedLink | None):
            raise AmqpError(HANDLE_IN_USE, f"The handle {attach.handle} is attached already.")
        try:
            self._open_link(attach)
        except AmqpError as problem:
            self._refuse(attach, problem)

    def _open_link(self, attach: Attach) -> None:
        path = entity_path(attach.source if attach.peer_receives else attach.target)
        node = path.lower()
        if node == CBS or node.endswith("/" + MANAGEMENT):
            if node != CBS:
                self.connection.server.broker.entity(node.removesuffix("/" + MANAGEMENT))
            kind = ResponseLink if attach.peer_receives else RequestLink
            self._accept(attach, kind(self, attach, node))
        elif not attach.peer_receives:
            destination = self.connection.server.broker.destination(path)
            self._accept(attach, EntitySender(self, attach, destination))
        else:
            self._open_receiver(attach, Receiver(self, attach, self.connection.server.broker.source(path)))

    def _open_receiver(self, attach: Attach, link: Receiver) -> None:
        if _SESSION_FILTER not in attach.filters:
            link.queue.attach(link)
            self._accept(attach, link)
            return
        wanted = attach.filters[_SESSION_FILTER]
        if isinstance(wanted, Described):
            wanted = wanted.value
        if isinstance(wanted, str):
            self._accept_session(attach, link, link.queue.accept_session(wanted, link))
            return
        if wanted is not None:
            raise AmqpError(INVALID_FIELD, "The session filter has to be the id of a session or null.")
        timeout = attach.properties.get(_SESSION_TIMEOUT)
        wait_ms = timeout if isinstance(timeout, int) and timeout > 0 else _DEFAULT_SESSION_TIMEOUT_MS
        deadline_ms = self.connection.server.clock() + min(wait_ms, _MAX_SESSION_TIMEOUT_MS)
        text = "No session with messages became available in time; wait longer or try again."

        def accepted(lock: SessionLock) -> None:
            self._accept_session(attach, link, lock)

        def timed_out() -> None:
            self._refuse(attach, AmqpError(TIMEOUT, text))

        self.links[attach.handle] = link
        link.queue.accept_next_session(SessionRequest(link, deadline_ms, accepted, timed_out))

    def _accept_session(self, attach: Attach, link: Receiver, lock: SessionLock) -> None:
        link.session = lock
        ticks = lock.until_ms * 10_000 + _DOTNET_EPOCH_TICKS
        properties: dict[Value, Value] = {Symbol("com.microsoft:locked-until-utc"): codec.long(ticks)}
        self._accept(attach, link, session_id=lock.session_id, properties=properties)
        link.queue.attach(link)

    def _accept(
        self,
        attach: Attach,
        link: Link,
        *,
        session_id: str | None = None,
        properties: Mapping[Value, Value] | None = None,
    ) -> None:
        self.links[attach.handle] = link
        filters: Mapping[Value, Value] | None = None
        if session_id is not None:
            filters = {Symbol(_SESSION_FILTER): session_id}
        source = [attach.source, None, None, None, None, None, None, filters]
        ends: list[Value] = [Described(frames.SOURCE, source), Described(frames.TARGET, [attach.target])]
        limit = link.max_bytes if isinstance(link, IncomingLink) else self.connection.server.max_message_bytes
        link_properties: dict[Value, Value] = dict(properties or {})
        if isinstance(link, EntitySender):
            link_properties[Symbol("com.microsoft:max-message-batch-size")] = codec.ulong(limit)
        self._send_attach(attach, ends, codec.ulong(limit), link_properties or None)
        if isinstance(link, IncomingLink):
            self.send_flow(link)

    def _refuse(self, attach: Attach, problem: AmqpError) -> None:
        """Answer an attach with a link that has neither source nor target, and close it (part 2.6.3)."""
        self._send_attach(attach, [None, None], None, None)
        self.links[attach.handle] = DetachedLink(self, attach.name, attach.handle)
        self._send_detach(attach.handle, problem)

    def _send_attach(
        self, attach: Attach, ends: list[Value], max_message_size: Value, properties: Mapping[Value, Value] | None
    ) -> None:
        fields: list[Value] = [
            attach.name,
            codec.uint(attach.handle),
            not attach.peer_receives,
            codec.ubyte(attach.snd_settle_mode),
            codec.ubyte(attach.rcv_settle_mode),
            *ends,
            None,
            None,
            codec.uint(0) if attach.peer_receives else None,
            max_message_size,
            None,
            None,
            properties,
        ]
        self.send(codec.composite(frames.ATTACH, fields))

    def _send_detach(self, handle: int, problem: AmqpError | None = None) -> None:
        fields: list[Value] = [codec.uint(handle), True, None if problem is None else frames.error(problem)]
        self.send(codec.composite(frames.DETACH, fields))

    def detach_with(self, link: Link, problem: AmqpError) -> None:
        """Close a link from this side."""
        link.close()
        self.links[link.handle] = DetachedLink(self, link.name, link.handle)
        self._drop_blocked(link)
        self._send_detach(link.handle, problem)

    def on_detach(self, fields: Fields) -> None:
        link = self._link(fields.uint(0, "handle"))
        link.close()
        del self.links[link.handle]
        self._drop_blocked(link)
        if not isinstance(link, DetachedLink):
            self._send_detach(link.handle)

    def _drop_blocked(self, link: Link) -> None:
        self._hold(deque(item for item in self._blocked if item[0] is not link))

    def _hold(self, left: deque[tuple[Link, bytes]]) -> None:
        """Let go of all frames that wait but these."""
        for blocked, sign in ((self._blocked, -1), (left, 1)):
            self.connection.held_back += sign * sum(len(frame) for _, frame in blocked)
        self._blocked = left

    def _link(self, handle: int) -> Link:
        link = self.links.get(handle)
        if link is None:
            raise AmqpError(UNATTACHED_HANDLE, f"No link is attached under the handle {handle}.")
        return link

    def response_link(self, path: str, reply_to: str | None) -> ResponseLink | None:
        """The link on which the peer awaits the response to a request to the node at `path`."""
        found = [link for link in self.links.values() if isinstance(link, ResponseLink) and link.path == path]
        named = [link for link in found if link.target == reply_to]
        return next(iter(named or found), None)

    # ---- transfers

    def on_flow(self, flow: Flow) -> None:
        window = ((flow.next_incoming_id or 0) + flow.incoming_window - self._next_outgoing_id) & frames.UINT_MAX
        was_closed = self._remote_window == 0
        self._remote_window = window if window <= WINDOW else 0
        self._send_blocked()
        if was_closed:
            self.wake_queues()
        if flow.handle is not None:
            self._link(flow.handle).on_flow(flow)

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        self._next_incoming_id = (self._next_incoming_id + 1) & frames.UINT_MAX
        self._link(transfer.handle).on_transfer(transfer, payload)

    def on_disposition(self, disposition: Disposition) -> None:
        """Settle deliveries and confirm it with the same outcome, as receivers in settle mode "second" expect."""
        if not disposition.peer_receives:
            return
        decision = decide(disposition)
        if decision is None:
            return
        if len(self.unsettled) >= MAX_UNSETTLED:
            self.wake_queues()
        outcome, echo, reason, description = decision
        first, last = disposition.first, disposition.last
        # A range is the peer's claim, as long as it likes; what counts is what it was sent.
        numbers = [first] if first == last else [number for number in self.unsettled if first <= number <= last]
        for number in numbers:
            state = echo
            held = self.unsettled.pop(number, None)
            try:
                if held is None:
                    raise AmqpError(MESSAGE_LOCK_LOST, "The delivery is not known or settled already.")
                held[0].settle(held[1], outcome, reason, description)
            except AmqpError as problem:
                state = frames.outcome(frames.REJECTED, frames.error(problem))
            if not disposition.settled:
                self.send(frames.disposition(as_receiver=False, delivery_id=number, state=state))


def decide(disposition: Disposition) -> tuple[Outcome, bytes, str | None, str | None] | None:
    """What a receiver's disposition means: outcome, its echo, dead-letter reason and description; None: nothing yet."""
    state = disposition.state
    match disposition.outcome:
        case frames.ACCEPTED:
            return Outcome.COMPLETE, frames.ACCEPTED_STATE, None, None
        case frames.REJECTED:
            error = Fields.of("rejected.error", state.raw(0), frames.ERROR)
            info = error.mapping(2, "info") if error else {}
            reason, description = info.get("DeadLetterReason"), info.get("DeadLetterErrorDescription")
            return (
                Outcome.DEAD_LETTER,
                _REJECTED,
                reason if isinstance(reason, str) else None,
                description if isinstance(description, str) else None,
            )
        case frames.RELEASED:
            return Outcome.RELEASE, _RELEASED, None, None
        case frames.MODIFIED:
            failed, elsewhere = state.flag(0, "delivery-failed"), state.flag(1, "undeliverable-here")
            outcome = Outcome.DEFER if elsewhere else Outcome.ABANDON if failed else Outcome.RELEASE
            return outcome, frames.outcome(frames.MODIFIED, failed, elsewhere), None, None
        case None if disposition.settled:
            return Outcome.RELEASE, _RELEASED, None, None
        case None | frames.RECEIVED:
            return None
        case _:
            raise DecodeError(f"0x{disposition.outcome:x} is not an outcome.")


def entity_path(address: str | None) -> str:
    """The path of an entity in an address: ``amqps://host/path``, ``/path`` or ``path``."""
    if not address:
        raise AmqpError(INVALID_FIELD, "The link names no entity; set the address of its source or target.")
    try:
        path = unquote(urlsplit(address).path) if "://" in address else address
    except ValueError as error:
        raise AmqpError(INVALID_FIELD, "The address of the link is not a valid URI.") from error
    return path.strip("/")
