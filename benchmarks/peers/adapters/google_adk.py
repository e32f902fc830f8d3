"""google-adk: an `LlmAgent` in an `InMemoryRunner`; each turn has a session that is made and deleted."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai.types import Content, FunctionCall, GenerateContentResponseUsageMetadata, Part

from benchmarks.peers.contract import ARGUMENTS, INSTRUCTIONS, REPLIES, TEXT, TOOL, Adapter

APP, USER = "bench", "user"
# Without it the library logs a warning per request.
USAGE = GenerateContentResponseUsageMetadata(prompt_token_count=10, candidates_token_count=5, total_token_count=15)


class Scripted(BaseLlm):
    """The script."""

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        assert llm_request.tools_dict
        last = llm_request.contents[-1].parts[-1]
        said = Part(text=REPLIES[TEXT])
        if last.function_response is not None:
            said = Part(text=last.function_response.response["result"])
        elif last.text == TOOL:
            said = Part(function_call=FunctionCall(id="call_1", name="echo", args=json.loads(ARGUMENTS)))
        yield LlmResponse(content=Content(role="model", parts=[said]), usage_metadata=USAGE)


class Peer(Adapter):
    """The model is shared by the agents."""

    def __init__(self) -> None:
        super().__init__()
        self._sessions = itertools.count(1)

    async def open(self) -> None:
        self._model = Scripted(model="scripted")
        self._runner = self.create()

    def create(self) -> Any:
        async def echo(text: str) -> str:
            """Answers at once."""
            return self.echo(text)

        agent = LlmAgent(name="bench", model=self._model, instruction=INSTRUCTIONS, tools=[echo])
        return InMemoryRunner(agent, app_name=APP)

    async def turn(self, text: str) -> str:
        sessions, name = self._runner.session_service, str(next(self._sessions))
        await sessions.create_session(app_name=APP, user_id=USER, session_id=name)
        reply = ""
        message = Content(role="user", parts=[Part(text=text)])
        async for event in self._runner.run_async(user_id=USER, session_id=name, new_message=message):
            if event.is_final_response():
                reply = event.content.parts[0].text
        await sessions.delete_session(app_name=APP, user_id=USER, session_id=name)
        return reply

    async def close(self) -> None:
        await self._runner.close()
