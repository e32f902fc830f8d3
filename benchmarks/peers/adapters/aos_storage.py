"""AOS's kernel with conversations, operations and outbox in Table storage; `BENCH_STORAGE` names the account."""

from __future__ import annotations

import os

from aos.config import load_settings
from aos.kernel.ports import ConversationStore
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.payloads import STATE_CONTAINER, Payloads
from benchmarks.peers.adapters import aos


class Peer(aos.Peer):
    """As in memory, but for the store."""

    def conversations(self) -> ConversationStore:
        settings = load_settings({"AZURE_STORAGE_CONNECTION_STRING": os.environ["BENCH_STORAGE"]})
        self._account = StorageAccount(settings)
        return TableConversations(self._account, Payloads(self._account, STATE_CONTAINER))

    async def close(self) -> None:
        await self._account.close()
