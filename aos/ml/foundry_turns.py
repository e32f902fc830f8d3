"""One message and its answer: asked at most once, although it may be tried several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aos.errors import AgentGone, FoundryRefused, FoundryUnavailable, TransientError
from aos.foundry.clients import FoundryClients
from aos.foundry.faults import foundry_errors
from aos.foundry.provisioning import Provisioner
from aos.foundry.responses import ResponsesAdapter
from aos.kernel.recovery import missing_input
from aos.ml.foundry_agents import Agent, AgentDefinition, FoundryAgents
from aos.ml.foundry_threads import FoundryThreads
from aos.ml.foundry_types import FoundryResponse
from aos.ml.retries import Retries

if TYPE_CHECKING:
    from openai.types.responses import Response, ResponseInputItemParam

UNANSWERED = '{"error": "This client runs no functions."}'


@dataclass(frozen=True, slots=True)
class Way:
    """By whom a message is answered.

    Attributes:
        definition: Of an agent that was made for this; absent for an agent that exists anyway.
        context: Told to an agent whose instructions are not ours, before the first message of a thread.
        metadata: Of the response.
    """

    agent: Agent
    label: str
    metadata: dict[str, Any]
    definition: AgentDefinition | None = None
    context: str | None = None


class FoundryTurns:
    """Asks agents.

    Args:
        app_name: See `FoundryAgents`.
        max_tokens: Tokens of an answer at most.
    """

    def __init__(
        self,
        clients: FoundryClients,
        agents: FoundryAgents,
        threads: FoundryThreads,
        retries: Retries,
        *,
        app_name: str,
        max_tokens: int,
    ) -> None:
        self._clients = clients
        self._agents = agents
        self._threads = threads
        self._retries = retries
        self._max_tokens = max_tokens
        self._reader = ResponsesAdapter(clients, Provisioner(None), app_name)

    async def ask(self, way: Way, thread_id: str | None, message: str, until: float) -> FoundryResponse:
        """The answer to a message.

        Args:
            thread_id: Where to go on; without it nothing is kept.
            until: Time of the clock after which no further attempt begins.

        Raises:
            FoundryUnavailable, FoundryRefused: From the service.
        """
        turn = _Turn(self, way, thread_id, message)
        try:
            return await self._tried(turn, until)
        except AgentGone:
            if way.definition is None:
                raise
            # Deleted outside, so nothing was asked.
            self._agents.forget(way.definition)
            turn.way = replace(way, agent=await self._agents.ensure(way.definition, way.label))
            return await self._tried(turn, until)

    async def _tried(self, turn: _Turn, until: float) -> FoundryResponse:
        def safe(error: TransientError) -> bool:
            # A thread tells what became of an attempt; without one nobody knows.
            return turn.thread_id is not None or not (isinstance(error, FoundryUnavailable) and error.sent)

        return await self._retries.run(turn.attempt, until=until, safe=safe)

    async def respond(self, way: Way, thread_id: str | None, items: list[ResponseInputItemParam]) -> Response:
        from openai import omit

        with foundry_errors(f"a response of {way.agent.name}"):
            return await self._clients.openai.responses.create(
                conversation=thread_id or omit,
                input=items,
                max_output_tokens=self._max_tokens,
                extra_body={"agent_reference": way.agent.reference},
            )

    async def read(self, way: Way, thread_id: str | None, response: Response) -> FoundryResponse:
        with foundry_errors(f"a response of {way.agent.name}"):
            content = response.output_text
            kinds = [item.type for item in response.output]
            calls = {item.call_id: item.name for item in response.output if item.type == "function_call"}
            usage = response.usage.model_dump() if response.usage else {}
        _check(response)
        if calls:
            await self.decline(way, thread_id, list(calls), sorted(set(calls.values())))
        metadata = dict(way.metadata)
        if response.status == "incomplete":
            reason = response.incomplete_details.reason if response.incomplete_details else None
            if reason == "content_filter" or not content:
                raise FoundryRefused(f"The answer is incomplete: {reason or 'no reason given'}.", code=reason)
            metadata["incomplete"] = reason
        return FoundryResponse(
            content=content,
            thread_id=thread_id,
            agent_id=way.agent.name,
            model=str(response.model or ""),
            tools_used=sorted({kind.removesuffix("_call") for kind in kinds if kind.endswith("_call")}),
            usage=usage,
            metadata=metadata,
        )

    async def adopt(self, way: Way, thread_id: str, anchor: str | None, message: str) -> FoundryResponse | str | None:
        """What became of a message: its answer, or what is left to say (nothing, if it arrived without an answer)."""
        items = await self._reader.items_after(thread_id, anchor)
        reply, _, text = missing_input(items, (), message, "")
        if reply is None:
            return text
        if reply.calls:
            called = sorted({call.name for call in reply.calls})
            await self.decline(way, thread_id, [call.call_id for call in reply.calls], called)
        # The service keeps no usage with the items of a conversation.
        metadata = way.metadata | {"adopted": True}
        return FoundryResponse(reply.text, thread_id, way.agent.name, metadata=metadata)

    async def last_item(self, thread_id: str) -> str | None:
        return await self._threads.last_item(thread_id)

    async def decline(self, way: Way, thread_id: str | None, calls: Sequence[str], names: Sequence[str]) -> None:
        """Answers function calls with an error, because open ones would block the thread for good.

        Raises:
            FoundryRefused: Always; it says which functions.
        """
        if thread_id is not None:
            with foundry_errors("declining function calls"):
                await self._clients.openai.conversations.items.create(
                    thread_id,
                    items=[{"type": "function_call_output", "call_id": call, "output": UNANSWERED} for call in calls],
                    timeout=30,
                )
        raise FoundryRefused(
            f"Agent {way.agent.name!r} called functions that this client does not run: {', '.join(names)}. Use an "
            "agent without functions, or host it in AOS.",
            code="functions_not_supported",
        )


class _Turn:
    """The attempts at one message."""

    def __init__(self, turns: FoundryTurns, way: Way, thread_id: str | None, message: str) -> None:
        self.way = way
        self.thread_id = thread_id
        self._turns = turns
        self._message = message
        self._anchor: str | None = None
        self._anchored = False
        self._unknown = False

    async def attempt(self) -> FoundryResponse:
        text: str | None = self._message
        if self.thread_id is not None:
            if not self._anchored:
                self._anchor = await self._turns.last_item(self.thread_id)
                self._anchored = True
            if self._unknown:
                found = await self._turns.adopt(self.way, self.thread_id, self._anchor, self._message)
                if isinstance(found, FoundryResponse):
                    return found
                text = found
        try:
            response = await self._turns.respond(self.way, self.thread_id, self._items(text))
            return await self._turns.read(self.way, self.thread_id, response)
        except FoundryUnavailable as error:
            self._unknown = self._unknown or error.sent
            raise

    def _items(self, text: str | None) -> list[ResponseInputItemParam]:
        items: list[ResponseInputItemParam] = []
        if text is not None:
            if self.way.context is not None and self._anchor is None:
                items.append({"type": "message", "role": "developer", "content": self.way.context})
            items.append({"type": "message", "role": "user", "content": text})
        return items


def _check(response: Response) -> None:
    if response.status not in ("failed", "cancelled"):
        return
    code, message = str(response.status), "no reason given"
    if response.error is not None:
        code, message = str(response.error.code), response.error.message
    if code in ("rate_limit_exceeded", "server_error"):
        raise FoundryUnavailable(f"The model failed: {message}", sent=True, code=code)
    raise FoundryRefused(f"The model failed: {message}", code=code)
