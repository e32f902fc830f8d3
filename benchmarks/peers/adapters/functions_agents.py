"""azurefunctions-agents-runtime: the call that its triggers make, with a scripted client where it builds a provider's.

Nothing of the runtime takes a client, so the function that builds one per message is replaced.
"""

from __future__ import annotations

import os
import tempfile
import uuid

from azure_functions_agents import run_agent, shutdown_runtime, tool
from azure_functions_agents.harness._provider_config import InferenceTarget, ProviderKind
from azure_functions_agents.harness.agent_framework import _maf_execution

from benchmarks.peers.adapters.agent_framework import Scripted
from benchmarks.peers.contract import INSTRUCTIONS, Adapter

TARGET = InferenceTarget(ProviderKind.OPENAI, "scripted")


class Peer(Adapter):
    """It has no agent between messages: each builds its own, in a new session, as for a message from a queue."""

    keeps_agents = False

    async def open(self) -> None:
        client = Scripted()
        _maf_execution.build_chat_client = lambda model: (client, TARGET)
        self._folder = tempfile.TemporaryDirectory()
        os.environ["AZURE_FUNCTIONS_AGENTS_SESSION_DIR"] = self._folder.name

        @tool
        async def echo(text: str) -> str:
            """Answers at once."""
            return self.echo(text)

        self._tools = [echo]

    def create(self) -> object:
        raise AssertionError("there is none to be made")

    async def turn(self, text: str) -> str:
        result = await run_agent(
            text,
            instructions=INSTRUCTIONS,
            tools=self._tools,
            mcp_tools=[],
            skills=[],
            skill_catalog=[],
            model="scripted",
            session_id=uuid.uuid4().hex,
            agent_name="bench",
            _session_is_new=True,
        )
        return str(result.content)

    async def close(self) -> None:
        await shutdown_runtime()
        self._folder.cleanup()
