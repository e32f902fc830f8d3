"""`python -m aos foundry migrate`: conversations taken along from the older generation of the Foundry API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from aos.config import STORAGE, Settings
from aos.errors import AosError, SettingError
from aos.foundry.clients import FoundryClients
from aos.foundry.migration import Migration
from aos.identity import identity
from aos.kernel.clock import SystemClock
from aos.kernel.types import ConversationKey
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.payloads import STATE_CONTAINER, Payloads


async def migrate_conversations(settings: Settings, one: tuple[str, str] | None, say: Callable[[str], None]) -> int:
    """Moves one conversation, or all that are still threads.

    Args:
        one: Agent and conversation; None: all.
        say: Is told a line about each.

    Returns:
        How many could not be moved.

    Raises:
        SettingError: There is no storage account, where the conversations are recorded.
        AosError: The one that was named could not be moved.
    """
    if not settings.storage_configured:
        raise SettingError(f"{STORAGE} is not set: it names the storage account that records the conversations.")
    credential = identity(settings) if settings.needs_identity else None
    account, clients = StorageAccount(settings, credential), FoundryClients(settings, credential)
    store = TableConversations(account, Payloads(account, STATE_CONTAINER))
    migration = Migration(store, clients, SystemClock())
    left = told = 0
    try:
        async for key in _named(one) if one is not None else store.keys():
            try:
                moved = await migration.move(key)
            except AosError as error:
                if one is not None:
                    raise
                left, told = left + 1, told + 1
                say(f"{key.agent_id} {key.conversation_id}: {error.detail}")
                continue
            if moved is not None:
                told += 1
                say(f"{key.agent_id} {key.conversation_id}: now {moved}")
            elif one is not None:
                say(f"{key.agent_id} {key.conversation_id}: no thread")
        if one is None and not told:
            say("No conversation is a thread; there is nothing to move.")
    finally:
        await clients.close()
        await account.close()
        if credential is not None:
            await credential.close()
    return left


async def _named(one: tuple[str, str]) -> AsyncIterator[ConversationKey]:
    yield ConversationKey(*one)
