"""Microsoft Agent Framework, talking to an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aos.ml import ModelSettingError
from aos.orchestration.chat import instructions, thread_of, went_on, within_context
from aos.orchestration.faults import model_errors
from aos.orchestration.model_types import ModelAnswer, ModelRefused, ModelRequest, ModelType, Thread, ThreadStore
from aos.orchestration.openai_backend import Server, openai_client

if TYPE_CHECKING:
    from agent_framework import AgentResponse
    from openai import AsyncOpenAI

COUNTS = {
    "input_tokens": "input_token_count",
    "output_tokens": "output_token_count",
    "total_tokens": "total_token_count",
}


class FrameworkBackend:
    """Runs an agent of the framework per question; what was said before goes with it.

    Args:
        timeout: Seconds for a request.
    """

    model_type = ModelType.AGENT_FRAMEWORK
    runs_tools = False

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        self._client: AsyncOpenAI | None = None

    def require(self, domain: str | None) -> None:
        self._server.require()

    async def ask(self, request: ModelRequest, threads: ThreadStore) -> tuple[ModelAnswer, Thread | None]:
        thread = await thread_of(self.model_type, request, threads)
        _, model = self._server.require()

        async def ask(thread: Thread) -> ModelAnswer:
            with model_errors(self.model_type.value):
                async with asyncio.timeout(request.timeout or self._timeout):
                    response = await self._run(request, thread, model)
                usage = response.usage_details or {}
                return ModelAnswer(
                    response.text,
                    model,
                    {name: count for name, key in COUNTS.items() if isinstance(count := usage.get(key), int)},
                    metadata={"domain": request.domain, "domain_deployment": False},
                )

        answer, thread = await within_context(thread, ask)
        if not answer.text:
            raise ModelRefused("The answer is empty.")
        return answer, await went_on(self.model_type, request, threads, thread, answer.text)

    async def _run(self, request: ModelRequest, thread: Thread, model: str) -> AgentResponse[None]:
        try:
            from agent_framework import Agent, Message
            from agent_framework.exceptions import AgentFrameworkException
            from agent_framework.openai import OpenAIChatCompletionClient
        except ImportError as error:
            raise ModelSettingError(
                "Microsoft Agent Framework is not installed: pip install agent-framework-core agent-framework-openai."
            ) from error
        import openai

        messages = [Message(said.role, [said.text]) for said in thread.history]
        client = OpenAIChatCompletionClient(model=model, async_client=self._openai)
        agent = Agent(client=client, instructions=instructions(request, own_model=False))
        try:
            return await agent.run([*messages, Message("user", [request.text])])
        except AgentFrameworkException as error:
            cause = error.__cause__
            if isinstance(cause, openai.OpenAIError | AttributeError | KeyError | IndexError | TypeError | ValueError):
                raise cause from None
            raise ModelRefused(f"Agent Framework failed: {error}"[:500]) from error

    async def check(self) -> None:
        with model_errors(self.model_type.value):
            await self._openai.models.list(timeout=10)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    @property
    def _openai(self) -> AsyncOpenAI:
        if self._client is None:
            self._client = openai_client(self._server)
        return self._client
