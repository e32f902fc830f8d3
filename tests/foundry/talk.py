"""A conversation as the kernel leads it, without the kernel."""

from __future__ import annotations

import asyncio

from aos.errors import FoundryUnavailable, RequestRefused
from aos.kernel.recovery import missing_input
from aos.kernel.types import AgentRef, ConversationKey, ModelReply, ToolOutput
from tests.foundry.project import Adapter, Project, spec


class Talk:
    """A conversation with an agent of its own."""

    def __init__(self, adapter: Adapter, ref: AgentRef, remote_id: str) -> None:
        self.adapter = adapter
        self.ref = ref
        self.remote_id = remote_id

    async def say(self, text: str | None, *outputs: ToolOutput, timeout: float = 30.0) -> ModelReply:
        return await self.adapter.respond(self.ref, self.remote_id, outputs, text, timeout)

    async def kinds(self, anchor: str | None = None) -> list[str]:
        return [item.kind for item in await self.adapter.items_after(self.remote_id, anchor)]

    async def recovered(self, text: str | None, *outputs: ToolOutput, anchor: str | None = None) -> ModelReply:
        """What another process does that finds the step begun: adopts, or asks for what is missing."""
        async with asyncio.timeout(60):
            while True:
                items = await self.adapter.items_after(self.remote_id, anchor)
                reply, missing, rest = missing_input(items, outputs, text, "m")
                try:
                    return reply or await self.say(rest, *missing)
                except (FoundryUnavailable, RequestRefused):
                    # It still runs, or its calls came between the look and the request.
                    await asyncio.sleep(0.05)


async def talk(project: Project, adapter: Adapter | None = None) -> Talk:
    adapter = adapter or project.any_adapter()
    wanted = spec()
    ref = await adapter.ensure_agent(wanted)
    return Talk(adapter, ref, await adapter.open_conversation(ConversationKey(wanted.agent_id, "main")))
