"""Messages that cannot be handled now, and those that never can."""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace

from aos.errors import TransientError
from aos.messaging.bus import Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import AGENT_COMMANDS
from aos.messaging.incoming import REPLAY, Incoming, put_off
from aos.messaging.replies import parked

log = logging.getLogger("aos.messaging")


async def postponed(incoming: Incoming, error: TransientError, claim_check: ClaimCheck) -> Outbound:
    """A copy to be delivered later: abandoning would burn the delivery count within seconds."""
    copy = put_off(incoming, AGENT_COMMANDS)
    copy = replace(copy, delay=max(copy.delay, error.retry_after or 0.0))
    log.warning("message %s of %s put off for %.0f s: %s", incoming.message_id, incoming.entity, copy.delay, error)
    return replace(copy, body=await claim_check.pack(copy.body, "redeliver"))


async def parked_incoming(incoming: Incoming, why: str, description: str, claim_check: ClaimCheck) -> Outbound:
    """A message that delivering again would not change, for an operator to look at.

    Replayed, it asks for the same answer in the same conversation.
    """
    park = parked(
        await claim_check.pack(incoming.body, "parked"),
        incoming.message_id or uuid.uuid4().hex,
        incoming.entity,
        why,
        description,
        {REPLAY: incoming.replay},
    )
    return replace(
        park,
        correlation_id=incoming.correlation_id,
        reply_to=incoming.reply_to,
        reply_to_session_id=incoming.reply_to_session_id,
        session_id=incoming.session_id,
    )
