"""Sends the outbox of a conversation. What can never be sent does not block what comes after it."""

from __future__ import annotations

import json
import logging

from aos.errors import AosError, BusUnavailable, TransientError
from aos.kernel.clock import Clock
from aos.kernel.events import ResultArrived
from aos.kernel.hold import Hold
from aos.kernel.points import AFTER_SEND, BEFORE_SEND, reached
from aos.kernel.ports import Outlet
from aos.kernel.records import replace
from aos.kernel.types import Outgoing, ToolResult

log = logging.getLogger("aos.kernel")

UNDELIVERABLE = 600.0
"""Seconds for which an effect is tried again that fails with an error nobody foresaw."""


class Sending:
    """Takes effects from the saved state to the outlet."""

    def __init__(self, outlet: Outlet, clock: Clock) -> None:
        self._outlet = outlet
        self._clock = clock

    async def send(self, hold: Hold) -> None:
        """Sends the outbox; that it is out is saved with the next step.

        Raises:
            TransientError: Not everything is out; sending it again is harmless.
            Conflict: The lease ran out: whoever has it now sends, or knows that it is not to be sent any more.
        """
        hold.require(self._clock.now())
        outbox = hold.state.outbox
        for effect in outbox:
            reached(BEFORE_SEND[effect.kind])
        unsent: list[tuple[Outgoing, AosError]] = []
        try:
            await self._outlet.send(hold.key, outbox)
        except TransientError:
            raise
        except Exception as error:
            unsent = await self._one_by_one(hold, outbox, error)
        for effect in outbox:
            reached(AFTER_SEND[effect.kind])
            if effect.kind in ("reply", "park", "answer") and effect.operation not in hold.told:
                # Nothing remains to be done for it: stores forget its due entry.
                hold.told.append(effect.operation)
        hold.state = replace(hold.state, outbox=())
        hold.changed = True
        for effect, refused in unsent:
            if effect.kind in ("tool", "delegate"):
                told = json.dumps({"error": f"{refused.code}: the call could not be sent. {refused.detail}"})
                hold.apply(ResultArrived(self._clock.now(), ToolResult(effect.request_id, told, failed=True)))

    async def _one_by_one(
        self, hold: Hold, outbox: tuple[Outgoing, ...], error: Exception
    ) -> list[tuple[Outgoing, AosError]]:
        """Sends each effect by itself and returns those that can never be sent.

        Raises:
            TransientError: One of them may be sent later.
        """
        log.warning("outbox of %s/%s is sent piece by piece: %s", *hold.key, error)
        unsent: list[tuple[Outgoing, AosError]] = []
        for effect in outbox:
            try:
                await self._outlet.send(hold.key, (effect,))
            except TransientError:
                raise
            except AosError as refused:
                log.error("%s of %s/%s cannot be sent: %s", effect.kind, *hold.key, refused.detail)
                unsent.append((effect, refused))
            except Exception as unforeseen:
                what = f"{type(unforeseen).__name__}: {unforeseen}"
                if self._clock.now() < _since(hold, effect) + UNDELIVERABLE:
                    raise BusUnavailable(
                        f"{effect.kind} could not be sent: {what}", code="internal_error"
                    ) from unforeseen
                log.exception("%s of %s/%s is given up", effect.kind, *hold.key)
                unsent.append((effect, AosError(what)))
        return unsent


def _since(hold: Hold, effect: Outgoing) -> float:
    """When the effect came about."""
    if effect.kind == "tool":
        calls = hold.state.turn.calls if hold.state.turn is not None else ()
        return next((call.requested_at for call in calls if call.request_id == effect.request_id), 0.0)
    match effect.kind:
        case "approval":
            return effect.record.requested_at
        case "delegate" | "withdraw":
            return effect.at
    return effect.operation.updated_at
