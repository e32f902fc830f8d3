"""One AMQP connection: protocol headers, SASL, frames, sessions, heartbeats (AMQP 1.0 part 2.2 to 2.4 and 5.3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from emulators.servicebus import codec, frames
from emulators.servicebus.errors import (
    CONNECTION_FORCED,
    FRAMING_ERROR,
    ILLEGAL_STATE,
    INTERNAL_ERROR,
    INVALID_FIELD,
    NOT_IMPLEMENTED,
    RESOURCE_LIMIT_EXCEEDED,
    AmqpError,
    DecodeError,
)
from emulators.servicebus.frames import Attach, Begin, Disposition, Fields, Flow, Open, Transfer
from emulators.servicebus.links import Receiver
from emulators.servicebus.session import Session

if TYPE_CHECKING:
    from emulators.servicebus.server import ServiceBusEmulator

MAX_FRAME_SIZE: Final = 65_536
CHANNEL_MAX: Final = 63
HANDSHAKE_SECONDS: Final = 30.0
CLOSING_SECONDS: Final = 10.0
"""How long a peer may take to read the last words."""
MAX_PARTIAL_BYTES: Final = 16 << 20
"""Bytes of deliveries that one connection has begun and not finished."""
HIGH_WATER: Final = 1 << 20
MAX_UNREAD_BYTES: Final = 64 << 20
"""What waits for a peer that does not read, before it is cut off."""
_MIN_MAX_FRAME_SIZE: Final = 512
_TRANSFER_OVERHEAD: Final = 96
_SHORTEST_HEARTBEAT: Final = 0.05

_log = logging.getLogger("emulators.servicebus")


class _Phase(Enum):
    HEADER = auto()
    SASL = auto()
    AMQP_HEADER = auto()
    OPENING = auto()
    OPEN = auto()
    CLOSED = auto()


class Connection(asyncio.Protocol):
    """Bytes in, frames out; whatever is wrong with the bytes ends this connection and no other."""

    def __init__(self, server: ServiceBusEmulator) -> None:
        self.server = server
        self.payload_room = _MIN_MAX_FRAME_SIZE - _TRANSFER_OVERHEAD
        """Bytes of a message that fit in one frame for this peer."""
        self.held_back = 0
        """Bytes of deliveries that wait for link credit or the window of a session."""
        self._phase = _Phase.HEADER
        self._sessions: dict[int, Session] = {}
        self._buffer = b""
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._writable = True
        self._held_up = False  # a delivery was refused because too much is in line
        self._partial_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._received_at = self._sent_at = 0.0
        self._send_interval = server.idle_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    # ---- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("A connection needs a stream transport.")
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._received_at = self._sent_at = self._loop.time()
        self._set_timer(HANDSHAKE_SECONDS, self._handshake_overdue)
        if not self.server.admit(self):
            _log.warning("A connection was refused: too many are open.")
            self._phase = _Phase.CLOSED
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = _Phase.CLOSED
        if self._timer is not None:
            self._timer.cancel()
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._out.clear()
        self.server.forget(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._resume_deliveries()

    def _resume_deliveries(self) -> None:
        self._held_up = False
        for session in self._sessions.values():
            session.wake_queues()
        self.server.schedule_turn()

    def can_take(self) -> bool:
        """Whether another message may be put in line."""
        if self._writable and self._out_bytes < HIGH_WATER:
            return True
        self._held_up = True
        return False

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.CLOSED:
            return
        self._received_at = self._loop.time()
        try:
            self._read(self._buffer + data if self._buffer else data)
        except AmqpError as problem:
            self.fail(problem)
        except Exception:
            _log.exception("A connection is closed because of a defect of the emulator.")
            self.fail(AmqpError(INTERNAL_ERROR, "The emulator failed on this frame; its log says why."))
        self.server.schedule_turn()

    def _read(self, data: bytes) -> None:
        position, end = 0, len(data)
        self._buffer = b""
        while end - position >= frames.FRAME_HEADER_SIZE and self._phase is not _Phase.CLOSED:
            if self._phase in (_Phase.HEADER, _Phase.AMQP_HEADER):
                self._on_header(data[position : position + 8])
                position += 8
                continue
            size = int.from_bytes(data[position : position + 4], "big")
            if not frames.FRAME_HEADER_SIZE <= size <= MAX_FRAME_SIZE:
                raise AmqpError(FRAMING_ERROR, f"A frame of {size} bytes; between 8 and {MAX_FRAME_SIZE} are allowed.")
            if end - position < size:
                break
            self._on_frame(data, position, position + size)
            position += size
            if self._out_bytes + self.held_back > MAX_UNREAD_BYTES + self.server.max_message_bytes:
                raise AmqpError(RESOURCE_LIMIT_EXCEEDED, "The requests of this connection have too long answers.")
        if position < end and self._phase is not _Phase.CLOSED:
            self._buffer = data[position:]

    def send(self, frame: bytes) -> None:
        """Put bytes in line; they leave at the end of the turn, after the commit."""
        self._out.append(frame)
        self._out_bytes += len(frame)
        self.server.pending.add(self)

    def flush(self) -> None:
        """Write what is in line; the server calls it once everything that it acknowledges is committed."""
        data = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if data:
            transport.write(data)
            self._sent_at = self._loop.time()
        if self._phase is _Phase.CLOSED:
            self._set_timer(CLOSING_SECONDS, transport.abort)
            transport.close()
        elif transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            _log.warning("A connection is cut off: its peer does not read.")
            self.abort()
        elif self._held_up and self._writable:
            self._resume_deliveries()

    def _set_timer(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, action)

    def abort(self) -> None:
        """Cut the connection without another word."""
        self._phase = _Phase.CLOSED
        self._out.clear()
        if self._transport is not None:
            self._transport.abort()

    def fail(self, problem: AmqpError) -> None:
        """Tell the peer what is wrong, as far as it can be told yet, and close."""
        _log.info("A connection is closed: %s", problem)
        if self._phase is _Phase.OPENING:
            self._send_open()
        if self._phase in (_Phase.OPENING, _Phase.OPEN):
            self.send(frames.frame(0, codec.composite(frames.CLOSE, [frames.error(problem)])))
        self._end()

    def _end(self) -> None:
        self._phase = _Phase.CLOSED
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self.server.pending.add(self)

    def hold_partial(self, size: int) -> None:
        """Account for bytes of deliveries that are not complete yet."""
        self._partial_bytes += size
        if self._partial_bytes > MAX_PARTIAL_BYTES + self.server.max_message_bytes:
            raise AmqpError(RESOURCE_LIMIT_EXCEEDED, "Too many deliveries are begun and not finished.")

    def find_receiver(self, name: str) -> Receiver | None:
        """The link on which the peer receives messages, by its name."""
        for session in self._sessions.values():
            for link in session.links.values():
                if isinstance(link, Receiver) and link.name == name:
                    return link
        return None

    # ---- opening

    def _on_header(self, header: bytes) -> None:
        if header == frames.SASL_HEADER and self._phase is _Phase.HEADER:
            self._phase = _Phase.SASL
            self.send(frames.SASL_HEADER)
            mechanisms = codec.symbol_array(("ANONYMOUS", "PLAIN", "MSSBCBS", "EXTERNAL"))
            self.send(frames.frame(0, codec.composite(frames.SASL_MECHANISMS, [mechanisms]), frames.SASL_FRAME))
        elif header == frames.AMQP_HEADER:
            self._phase = _Phase.OPENING
            self.send(frames.AMQP_HEADER)
        else:  # part 2.2: answer with a header that is supported, and close
            self.send(frames.AMQP_HEADER)
            self._phase = _Phase.CLOSED

    def _on_sasl(self, code: int) -> None:
        if code != frames.SASL_INIT:
            raise DecodeError("A sasl-init frame is expected.")
        self.send(frames.frame(0, codec.composite(frames.SASL_OUTCOME, [codec.ubyte(0)]), frames.SASL_FRAME))
        self._phase = _Phase.AMQP_HEADER

    def _on_open(self, opened: Open) -> None:
        if opened.max_frame_size < _MIN_MAX_FRAME_SIZE:
            raise AmqpError(INVALID_FIELD, f"open.max-frame-size has to be at least {_MIN_MAX_FRAME_SIZE}.")
        self.payload_room = min(opened.max_frame_size, MAX_FRAME_SIZE) - _TRANSFER_OVERHEAD
        if opened.idle_timeout_ms:
            self._send_interval = max(opened.idle_timeout_ms / 2000, _SHORTEST_HEARTBEAT)
        self._send_open()
        self._phase = _Phase.OPEN
        self._beat()

    def _send_open(self) -> None:
        idle = codec.uint(int(self.server.idle_seconds * 1000))
        fields = ["servicebus-emulator", None, codec.uint(MAX_FRAME_SIZE), codec.ushort(CHANNEL_MAX), idle]
        self.send(frames.frame(0, codec.composite(frames.OPEN, fields)))

    def _handshake_overdue(self) -> None:
        _log.info("A connection is closed: it was not opened in %g s.", HANDSHAKE_SECONDS)
        self.abort()

    def _beat(self) -> None:
        """Send an empty frame if nothing else went out, and drop a peer from which nothing comes (part 2.4.5)."""
        if self._phase is not _Phase.OPEN:
            return
        now = self._loop.time()
        # The peer heard of the idle time-out as a promise to send within it; half of it again allows for delays.
        silence_limit = self.server.idle_seconds * 1.5
        if now - self._received_at > silence_limit:
            self.fail(AmqpError(CONNECTION_FORCED, f"Nothing was received for {silence_limit:g} s."))
        elif now - self._sent_at >= self._send_interval * 0.9:
            self.send(frames.EMPTY_FRAME)
        self.server.schedule_turn()
        self._set_timer(min(self._send_interval, silence_limit / 4), self._beat)

    # ---- frames

    def _on_frame(self, data: bytes, start: int, end: int) -> None:
        body = start + data[start + 4] * 4
        kind = data[start + 5]
        if body < start + frames.FRAME_HEADER_SIZE or body > end:
            raise AmqpError(FRAMING_ERROR, "The data offset of a frame points outside of it.")
        if kind != (frames.SASL_FRAME if self._phase is _Phase.SASL else frames.AMQP_FRAME):
            raise AmqpError(FRAMING_ERROR, f"A frame of type {kind} has no place here.")
        if body == end:
            return
        code, position = codec.descriptor_at(data, body, end)
        items, position = codec.decode_list(data, position, end)
        if position != end and code != frames.TRANSFER:
            raise AmqpError(FRAMING_ERROR, "Bytes follow the performative of a frame that carries no payload.")
        if self._phase is _Phase.SASL:
            self._on_sasl(code)
        elif self._phase is _Phase.OPENING:
            if code != frames.OPEN:
                raise AmqpError(ILLEGAL_STATE, "The first frame of a connection has to be open.")
            self._on_open(Open.parse(Fields("open", items)))
        else:
            channel = int.from_bytes(data[start + 6 : start + 8], "big")
            self._on_performative(channel, code, items, data[position:end] if code == frames.TRANSFER else b"")

    def _on_performative(self, channel: int, code: int, items: list[codec.Value], payload: bytes) -> None:
        if code == frames.CLOSE:
            self.send(frames.frame(0, codec.composite(frames.CLOSE, [])))
            self._end()
            return
        if code == frames.BEGIN:
            self._on_begin(channel, Begin.parse(Fields("begin", items)))
            return
        session = self._sessions.get(channel)
        if session is None:
            raise AmqpError(ILLEGAL_STATE, f"No session was begun on channel {channel}.")
        match code:
            case frames.TRANSFER:
                session.on_transfer(Transfer.parse(Fields("transfer", items)), payload)
            case frames.DISPOSITION:
                session.on_disposition(Disposition.parse(Fields("disposition", items)))
            case frames.FLOW:
                session.on_flow(Flow.parse(Fields("flow", items)))
            case frames.ATTACH:
                session.on_attach(Attach.parse(Fields("attach", items)))
            case frames.DETACH:
                session.on_detach(Fields("detach", items))
            case frames.END:
                session.close()
                del self._sessions[channel]
                session.send(codec.composite(frames.END, []))
            case _:
                raise AmqpError(NOT_IMPLEMENTED, f"A frame with the performative 0x{code:x} has no place here.")

    def _on_begin(self, channel: int, begin: Begin) -> None:
        if channel > CHANNEL_MAX:
            raise AmqpError(INVALID_FIELD, f"Channel {channel} is above the announced channel-max of {CHANNEL_MAX}.")
        if channel in self._sessions:
            raise AmqpError(ILLEGAL_STATE, f"A session was begun on channel {channel} already.")
        self._sessions[channel] = Session(self, channel, begin)
