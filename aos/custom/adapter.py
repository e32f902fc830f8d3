"""`FoundryPort` without Foundry: Microsoft Agent Framework in front of any OpenAI-compatible endpoint.

One chat completion per model step. Tools are declared, never run: Agent Framework's own tool loop is off, because the
loop is the kernel's (calls travel over the bus, and a turn survives its process).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aos.config import Settings
from aos.custom.definitions import Definitions
from aos.custom.faults import HistoryGone, ModelRefused, model_errors
from aos.custom.history import Histories, HistoryItem
from aos.custom.messages import WINDOW, answer_items, to_messages, tool_schemas, window
from aos.errors import SettingError
from aos.foundry.values import LOCAL, whole
from aos.kernel.ports import AgentSpec, RemoteItem
from aos.kernel.types import AgentRef, ConversationKey, FunctionCall, ModelReply, ToolOutput, Usage

if TYPE_CHECKING:
    from agent_framework import ChatResponse
    from agent_framework.openai import OpenAIChatCompletionClient
    from openai import AsyncOpenAI

log = logging.getLogger("aos.custom")

SHORTEST = 4000
"""Characters of history below which a prompt that is too long is not shortened further."""


class AgentFrameworkAdapter:
    """`FoundryPort` on Agent Framework; the deployment of an agent is the name of the model that the endpoint serves.

    Args:
        settings: With `AOS_MODEL_ENDPOINT`, and `AOS_MODEL_API_KEY` if the endpoint wants one.
    """

    def __init__(self, settings: Settings, histories: Histories, definitions: Definitions) -> None:
        self._settings = settings
        self._histories = histories
        self._definitions = definitions
        self._openai: AsyncOpenAI | None = None
        self._chat: OpenAIChatCompletionClient[Any] | None = None

    async def ensure_agent(self, spec: AgentSpec) -> AgentRef:
        if spec.service_functions or spec.service_agents:
            raise ModelRefused(
                f'Agent {spec.agent_id!r} leaves tools to the service (`execution` or `delegation` "service"), and the '
                'custom runtime has none: leave these keys at "aos".',
                code="service_tools_unavailable",
            )
        base = self._settings.model_deployment
        if self._settings.deployment_fallback and spec.deployment != base:
            served = await self.names()
            if spec.deployment not in served and base in served:
                log.warning("the endpoint does not serve %s: its agent falls back to %s", spec.deployment, base)
                spec = replace(spec, deployment=base)
        return await self._definitions.ensure(spec)

    async def forget_agent(self, agent_id: str) -> None:
        self._definitions.forget(agent_id)

    async def look_up_agents(self, agent_ids: Collection[str]) -> frozenset[str]:
        """Nothing: no service has agents, and a definition costs one small write."""
        return frozenset()

    async def remove_agent(self, agent_id: str) -> bool:
        """Nothing but a definition that nobody refers to is left of an agent."""
        self._definitions.forget(agent_id)
        return False

    async def open_conversation(self, key: ConversationKey) -> str:
        name = f"{LOCAL}{uuid.uuid4().hex}"
        await self._histories.create(name, key)
        return name

    async def respond(
        self,
        agent: AgentRef,
        remote_id: str,
        outputs: Sequence[ToolOutput],
        text: str | None,
        timeout: float,
        *,
        on_text: Callable[[str], None] | None = None,
    ) -> ModelReply:
        spec = await self._definitions.get(agent)
        history = await self._histories.read(_own(remote_id))
        added = _input(outputs, text, history.last + 1)
        items = [*history.items, *added]
        with model_errors(f"a step of {agent.name}"):
            async with asyncio.timeout(timeout):
                response = await self._complete(spec, items, on_text)
            used = {item.call_id for item in items if item.kind == "call"}
            answer = answer_items(response, used, history.last + 1 + len(added))
        # Not within the time-out: an answer that is there should not be lost to a slow storage account.
        await self._histories.append(remote_id, history.version, [*added, *answer])
        return _reply(response, answer, spec.deployment)

    async def items_after(self, remote_id: str, anchor: str | None) -> list[RemoteItem]:
        history = await self._histories.read(_own(remote_id))
        after = 0 if anchor is None else int(anchor)
        return [
            RemoteItem(str(item.number), item.kind, item.text, item.call_id, item.name, item.arguments)
            for item in history.items
            if item.number > after
        ]

    async def delete_conversation(self, remote_id: str) -> None:
        if remote_id.startswith(LOCAL):
            await self._histories.delete(remote_id)
        else:
            log.warning("%s lies in the Foundry service, which this runtime does not use: it stays there", remote_id)

    async def names(self) -> frozenset[str]:
        """The models that the endpoint says it serves."""
        with model_errors("listing models"):
            page = await self._endpoint().models.list(timeout=10)
            return frozenset(model.id for model in page.data)

    async def check(self) -> None:
        await self.names()

    async def close(self) -> None:
        if self._openai is not None:
            await self._openai.close()
        self._openai = self._chat = None

    async def _complete(
        self, spec: AgentSpec, items: Sequence[HistoryItem], on_text: Callable[[str], None] | None
    ) -> ChatResponse:
        """One chat completion; with ever fewer of the older turns while the model says that they are too many."""
        tools = tool_schemas(spec.functions)
        options: dict[str, Any] = {"model": spec.deployment, "instructions": spec.instructions}
        if tools:
            options["tools"] = tools
        characters = WINDOW
        while True:
            shown = window(items, characters)
            try:
                with model_errors(f"a step of {spec.agent_id}"):
                    if on_text is None:
                        return await self._client().get_response(to_messages(shown), options=options)
                    stream = self._client().get_response(to_messages(shown), stream=True, options=options)
                    async for update in stream:
                        if update.text:
                            on_text(whole(update.text))
                    return await stream.get_final_response()
            except ModelRefused as error:
                if error.code == "deployment_not_found":
                    raise await self._no_such_model(spec.deployment, error) from error
                shorter = characters // 2
                if error.code != "context_length_exceeded" or shorter < SHORTEST:
                    raise
                while shorter >= SHORTEST and len(window(items, shorter)) == len(shown):
                    shorter //= 2
                if shorter < SHORTEST:
                    raise
                log.info("the conversation of %s is too long for its model: older turns are left out", spec.agent_id)
                characters = shorter

    async def _no_such_model(self, deployment: str, error: ModelRefused) -> ModelRefused:
        names = await self.names()
        return ModelRefused(
            f"Failed to create agent: Model not found: the endpoint does not serve {deployment!r}. Models: "
            f"{', '.join(sorted(names)[:50]) or 'none'}. Serve it (vLLM: --lora-modules {deployment}=PATH), or correct "
            "AZURE_AI_MODEL_DEPLOYMENT or the agent's domain.",
            code=error.code,
        )

    def _endpoint(self) -> AsyncOpenAI:
        if self._openai is None:
            from openai import AsyncOpenAI

            endpoint = self._settings.model_endpoint
            if not endpoint:
                raise SettingError(
                    "AOS_MODEL_ENDPOINT is not set: with USE_FOUNDRY_RUNTIME=false it names the OpenAI-compatible "
                    "endpoint that serves the models, such as http://127.0.0.1:8000/v1."
                )
            # It never retries by itself: a repeated model step must be a decision. Steps have their own time-out.
            key = self._settings.model_api_key or "none"
            self._openai = AsyncOpenAI(base_url=endpoint, api_key=key, max_retries=0, timeout=600)
        return self._openai

    def _client(self) -> OpenAIChatCompletionClient[Any]:
        if self._chat is None:
            from agent_framework.openai import OpenAIChatCompletionClient

            self._chat = OpenAIChatCompletionClient(
                model="named per request",
                async_client=self._endpoint(),
                function_invocation_configuration={"enabled": False},
            )
        return self._chat


def _own(remote_id: str) -> str:
    if not remote_id.startswith(LOCAL):
        raise HistoryGone(f"Conversation {remote_id} belongs to another runtime; a new history begins.")
    return remote_id


def _input(outputs: Sequence[ToolOutput], text: str | None, first: int) -> list[HistoryItem]:
    items = [
        HistoryItem(number=first + index, kind="output", call_id=output.call_id, text=output.output)
        for index, output in enumerate(outputs)
    ]
    if text is not None:
        items.append(HistoryItem(number=first + len(items), kind="user", text=text))
    return items


def _reply(response: ChatResponse, answer: Sequence[HistoryItem], deployment: str) -> ModelReply:
    usage = response.usage_details or {}
    spent_in, spent_out = usage.get("input_token_count") or 0, usage.get("output_token_count") or 0
    return ModelReply(
        text="".join(item.text for item in answer if item.kind == "text"),
        calls=tuple(FunctionCall(item.call_id, item.name, item.arguments) for item in answer if item.kind == "call"),
        usage=Usage(spent_in, spent_out, usage.get("total_token_count") or spent_in + spent_out),
        model=response.model or deployment,
        anchor=str(answer[-1].number),
        truncated=response.finish_reason == "length",
    )
