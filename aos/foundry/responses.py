"""The current generation of the Foundry Agent Service: agent versions, conversations, responses.

Wire protocol: `azure-ai-projects` 2.x for agents and deployments, its OpenAI client for conversations and responses.
The tool loop is ours: a response ends with function calls, their outputs are the input of the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aos.errors import AosError, ConversationGone, FoundryRefused, FoundryUnavailable
from aos.foundry.clients import FoundryClients
from aos.foundry.deletion import delete_conversation
from aos.foundry.deployments import Deployments
from aos.foundry.faults import foundry_errors, seconds_in
from aos.foundry.provisioning import KnownAgent, Provisioner
from aos.foundry.service_tools import response_tools
from aos.foundry.values import DRIPPING, LOCAL, distinct, present, whole
from aos.kernel.ports import AgentSpec, RemoteItem
from aos.kernel.types import AgentRef, ConversationKey, FunctionCall, ModelReply, ToolOutput, Usage

if TYPE_CHECKING:
    from azure.ai.projects.models import AgentVersionDetails
    from openai import AsyncStream
    from openai.types.responses import Response, ResponseStreamEvent

THREAD = "thread_"
"""How the ids of the older generation's conversations begin."""
PAGE = 100
"""Agents, and versions of one, per request."""
MANY_ITEMS = 1000
"""Items read at most when looking for what came after an anchor."""
TAIL = 1.0
"""Seconds that a stream may take to end after its last event; read to its end, its connection serves the next step."""


class ResponsesAdapter:
    """`FoundryPort` on agent versions, conversations and responses.

    Args:
        app_name: Written into the metadata of what is made; only agents that carry it are touched.
        deployments: Of the project; with the fallback that the settings allow.
    """

    def __init__(
        self, clients: FoundryClients, provisioner: Provisioner, app_name: str, deployments: Deployments | None = None
    ) -> None:
        self._clients = clients
        self._provisioner = provisioner
        self._app_name = app_name
        self._deployments = deployments or Deployments(clients)

    async def ensure_agent(self, spec: AgentSpec) -> AgentRef:
        chosen = await self._deployments.choose(spec.deployment)
        return await self._provisioner.ensure(replace(spec, deployment=chosen), self)

    async def forget_agent(self, agent_id: str) -> None:
        await self._provisioner.forget(agent_id)

    async def look_up_agents(self, agent_ids: Collection[str]) -> frozenset[str]:
        return await self._provisioner.look_up(agent_ids, self)

    async def remove_agent(self, agent_id: str) -> bool:
        return await self._provisioner.remove(agent_id, self)

    async def list_agents(self) -> Mapping[str, KnownAgent]:
        """All agents of the project by name."""
        found: dict[str, KnownAgent] = {}
        with foundry_errors("listing agents"):
            # The SDK's pager asks for one more page after the last one.
            async for page in self._clients.project.agents.list(limit=PAGE).by_page():
                before = len(found)
                async for agent in page:
                    found[present(agent.name)] = self._known(agent.versions.latest)
                if len(found) - before < PAGE:
                    break
        return found

    async def find_agent(self, name: str) -> KnownAgent | None:
        """The newest version of an agent, or None."""
        from azure.core.exceptions import ResourceNotFoundError

        with foundry_errors(f"finding agent {name}"):
            try:
                agent = await self._clients.project.agents.get(name)
            except ResourceNotFoundError:
                return None
            return self._known(agent.versions.latest)

    def _known(self, version: AgentVersionDetails) -> KnownAgent:
        metadata = version.metadata or {}
        return KnownAgent(
            version=present(version.version),
            definition_hash=metadata.get("aos_hash", ""),
            ours=metadata.get("aos_app") == self._app_name,
            agent_id=metadata.get("aos_agent", ""),
        )

    async def create_agent(self, name: str, spec: AgentSpec, definition_hash: str) -> str:
        """Makes a new version and returns its number."""
        from azure.ai.projects.models import FunctionTool, PromptAgentDefinition

        await self._deployments.require(spec.deployment)
        tools: list[Any] = [
            # MCP schemas rarely have what `strict` demands: all properties required, none additional.
            FunctionTool(name=f.name, description=f.description, parameters=dict(f.parameters), strict=False)
            for f in spec.functions
        ]
        tools += response_tools(spec)
        definition = PromptAgentDefinition(model=spec.deployment, instructions=spec.instructions, tools=tools or None)
        metadata = {"aos_app": self._app_name, "aos_agent": spec.agent_id, "aos_hash": definition_hash}
        with foundry_errors(f"creating agent {name}"):
            made = await self._clients.project.agents.create_version(name, definition=definition, metadata=metadata)
            return present(made.version)

    async def delete_agent(self, name: str) -> bool:
        """Deletes an agent with all its versions; of one that somebody else added versions to, only those of ours."""
        from azure.core.exceptions import ResourceNotFoundError

        agents = self._clients.project.agents
        with foundry_errors(f"deleting agent {name}"):
            try:
                versions = [self._known(version) async for version in agents.list_versions(name, limit=PAGE)]
                ours = [version.version for version in versions if version.ours]
                if ours and len(ours) == len(versions):
                    await agents.delete(name)
                    return True
            except ResourceNotFoundError:
                return False
            for version in ours:
                with suppress(ResourceNotFoundError):
                    await agents.delete_version(name, version)
        return bool(ours)

    async def open_conversation(self, key: ConversationKey) -> str:
        metadata = {
            "aos_app": self._app_name,
            "aos_agent": key.agent_id,
            "aos_conversation": key.conversation_id,
        }
        with foundry_errors("opening a conversation"):
            conversation = await self._clients.openai.conversations.create(metadata=metadata, timeout=30)
            return present(conversation.id)

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
        await self._require_own(remote_id)
        items: list[Any] = [
            {"type": "function_call_output", "call_id": output.call_id, "output": output.output} for output in outputs
        ]
        if text is not None:
            items.append({"type": "message", "role": "user", "content": text})
        extra = {"agent_reference": {"type": "agent_reference", "name": agent.name, "version": agent.version}}
        create = self._clients.openai.responses.create
        with foundry_errors(f"a response of {agent.name}"):
            async with asyncio.timeout(timeout + DRIPPING):
                if on_text is None:
                    response = await create(conversation=remote_id, input=items, extra_body=extra, timeout=timeout)
                else:
                    events = await create(
                        conversation=remote_id, input=items, extra_body=extra, timeout=timeout, stream=True
                    )
                    async with events:
                        response = await _streamed(events, on_text)
            return _reply(response)

    async def items_after(self, remote_id: str, anchor: str | None) -> list[RemoteItem]:
        from openai import omit

        await self._require_own(remote_id)
        found: list[RemoteItem] = []
        with foundry_errors("reading a conversation"):
            pages = self._clients.openai.conversations.items.list(
                remote_id, after=anchor or omit, order="asc", limit=100, timeout=30
            )
            async for item in pages:
                remote = _remote(item.model_dump())
                if remote is not None:
                    found.append(remote)
                if len(found) >= MANY_ITEMS:
                    break
        return found

    async def _require_own(self, remote_id: str) -> None:
        """A thread of the older generation is replayed into a conversation, which takes its place.

        Raises:
            ConversationGone: It was one, or a history of the custom runtime.
        """
        if remote_id.startswith(LOCAL):
            raise ConversationGone(f"{remote_id} is a history of the custom runtime; a new conversation begins.")
        if remote_id.startswith(THREAD):
            from aos.foundry.migration import replay

            successor = await replay(self._clients, remote_id)
            raise ConversationGone(f"{remote_id} was replayed into {successor}.", successor=successor)

    async def delete_conversation(self, remote_id: str) -> None:
        await delete_conversation(self._clients, remote_id)

    async def check(self) -> None:
        await self._deployments.check()

    async def close(self) -> None:
        await self._clients.close()


async def _streamed(events: AsyncStream[ResponseStreamEvent], on_text: Callable[[str], None]) -> Response:
    """Reads a stream of events to its end and returns the response that the last of them holds."""
    from openai import APIError

    while (event := await anext(events, None)) is not None:
        if event.type == "response.output_text.delta":
            on_text(whole(event.delta))
        elif event.type == "error":
            raise _failed(event.code or "server_error", event.message)
        elif event.type in ("response.completed", "response.incomplete", "response.failed"):
            with suppress(TimeoutError, APIError):
                async with asyncio.timeout(TAIL):
                    while await anext(events, None) is not None:
                        continue
            return event.response
    raise FoundryUnavailable("Foundry's stream ended before the model step did.", sent=True)


def _failed(code: str, message: str) -> AosError:
    if code in ("rate_limit_exceeded", "server_error"):
        # Its input may have stayed in the conversation.
        detail = f"The model step failed: {message}"
        return FoundryUnavailable(detail, sent=True, code=code, retry_after=seconds_in(message))
    return FoundryRefused(f"The model step failed: {message}", code=code)


def _reply(response: Response) -> ModelReply:
    if response.status in ("failed", "cancelled"):
        error = response.error
        raise _failed(str(error.code), error.message) if error else _failed(str(response.status), "no reason given")
    if response.status == "incomplete":
        reason = response.incomplete_details.reason if response.incomplete_details else None
        if reason == "content_filter" or not response.output_text:
            raise FoundryRefused(f"The model's answer is incomplete: {reason or 'no reason given'}.", code=reason)
    calls: list[FunctionCall] = []
    declined: list[str] = []
    anchor: str | None = None
    for item in response.output:
        if item.type == "function_call":
            calls.append(FunctionCall(item.call_id, whole(item.name), whole(item.arguments)))
        elif item.type == "message":
            declined += [part.refusal for part in item.content if part.type == "refusal"]
        anchor = getattr(item, "id", None) or anchor
    used = response.usage
    usage = Usage(used.input_tokens, used.output_tokens, used.total_tokens) if used else Usage()
    return ModelReply(
        whole(response.output_text or "".join(declined)),
        distinct(calls),
        usage,
        str(response.model or ""),
        anchor,
        truncated=response.status == "incomplete",
    )


def _remote(item: dict[str, Any]) -> RemoteItem | None:
    """An item of a conversation as recovery sees it; None for kinds that it does not compare."""
    item_id, kind = str(item.get("id") or ""), item.get("type")
    if kind == "function_call":
        name, arguments = whole(str(item["name"])), whole(str(item["arguments"]))
        return RemoteItem(item_id, "call", call_id=str(item["call_id"]), name=name, arguments=arguments)
    if kind == "function_call_output":
        return RemoteItem(item_id, "output", call_id=str(item["call_id"]))
    if kind == "message":
        parts = item.get("content") or []
        text = "".join(str(part.get("text") or part.get("refusal") or "") for part in parts if isinstance(part, dict))
        return RemoteItem(item_id, "user" if item.get("role") == "user" else "text", text=whole(text))
    return None
