"""Removing conversations, of whichever generation they are."""

from __future__ import annotations

import logging
from contextlib import suppress

from aos.errors import ConversationGone
from aos.foundry.clients import FoundryClients
from aos.foundry.faults import foundry_errors
from aos.foundry.values import LOCAL

log = logging.getLogger("aos.foundry")

THREAD = "thread_"


async def delete_conversation(clients: FoundryClients, remote_id: str) -> None:
    """Removes a conversation or a thread; one that is not there is no error.

    Raises:
        FoundryUnavailable, FoundryRefused: From Foundry.
    """
    if remote_id.startswith(LOCAL):
        log.warning("%s is a history of the custom runtime: it stays in container aos-conversations", remote_id)
        return
    with suppress(ConversationGone), foundry_errors(f"removing {remote_id}"):
        if remote_id.startswith(THREAD):
            await clients.agents.threads.delete(remote_id)
        else:
            await clients.openai.conversations.delete(remote_id, timeout=30)
