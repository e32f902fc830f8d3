"""A turn with one tool call on the older generation of Foundry, against the SDK's own loop, in one run."""

from __future__ import annotations

import time
from statistics import median

from azure.ai.agents.models import AsyncFunctionTool, AsyncToolSet

from aos.config import load_settings
from aos.foundry.clients import FoundryClients
from aos.foundry.provisioning import Provisioner
from aos.foundry.threads import ThreadsAdapter
from aos.kernel.ports import AgentSpec, FunctionDefinition
from aos.kernel.types import ConversationKey, ToolOutput
from emulators.foundry import FoundryEmulator

MODEL_MS = 200.0
TURNS = 3
QUESTION = '@tool lookup {"year": 2024}\n@say done'
DEPLOYMENT = "llama-3.3-70b-ceo"


async def lookup(year: int) -> str:
    """Looks a figure up."""
    return f'{{"year": {year}}}'


async def share_of_create_and_process() -> float:
    """Time of our turn as a part of the time that `create_and_process` with its defaults takes."""
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}}
    spec = AgentSpec("bench", DEPLOYMENT, "Be brief.", (FunctionDefinition("lookup", "Looks a figure up.", schema),))
    async with FoundryEmulator(latency_ms=MODEL_MS) as emulator:
        clients = FoundryClients(
            load_settings({"AZURE_AI_PROJECT_ENDPOINT": emulator.endpoint, "AZURE_AI_API_KEY": "local"})
        )
        adapter = ThreadsAdapter(clients, Provisioner(None), "bench")
        try:
            ref = await adapter.ensure_agent(spec)
            thread = await adapter.open_conversation(ConversationKey("bench", "main"))
            figures = []
            for _ in range(TURNS):
                began = time.perf_counter()
                asked = await adapter.respond(ref, thread, (), QUESTION, 30)
                output = ToolOutput(asked.calls[0].call_id, await lookup(2024))
                answered = await adapter.respond(ref, thread, [output], None, 30)
                figures.append(time.perf_counter() - began)
                assert answered.text == "done"
            tools = AsyncToolSet()
            tools.add(AsyncFunctionTool({lookup}))
            clients.agents.enable_auto_function_calls(tools)
            began = time.perf_counter()
            await clients.agents.messages.create(thread, role="user", content=QUESTION)
            run = await clients.agents.runs.create_and_process(thread, agent_id=ref.version)
            assert run.status == "completed"
            return median(figures) / (time.perf_counter() - began)
        finally:
            await adapter.close()
