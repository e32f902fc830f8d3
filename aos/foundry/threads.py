"""The older generation of the Foundry Agent Service: assistants, threads, runs. It retires on 2027-03-31.

Wire protocol: `azure-ai-agents` 1.x. A conversation is a thread. A run takes one model step after the other and stops
in between with `requires_action` until the results of its tools are submitted; so one `respond` moves a run from one
such stop to the next. The SDK's own loop (`create_and_process`, `enable_auto_function_calls`) is not used: it polls
once a second, has no time-out, and its table of functions is one per client, not per agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from aos.errors import AgentGone, ConversationGone, FoundryRefused, FoundryUnavailable
from aos.foundry.clients import FoundryClients
from aos.foundry.deletion import delete_conversation
from aos.foundry.deployments import Deployments
from aos.foundry.faults import foundry_errors, seconds_in
from aos.foundry.provisioning import KnownAgent, Provisioner
from aos.foundry.service_tools import gone_agents, thread_tools
from aos.foundry.thread_items import in_order, items_of
from aos.foundry.thread_stream import Tap
from aos.foundry.thread_wire import ACTIVE, INPUT, KIND, OUTPUTS, RUNNING, Message, Result, Run, Step, outputs_message
from aos.foundry.values import distinct, present, whole
from aos.kernel.calls import ABANDONED
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.ports import AgentSpec, RemoteItem
from aos.kernel.types import AgentRef, ConversationKey, FunctionCall, ModelReply, ToolOutput, Usage

if TYPE_CHECKING:
    from azure.core.async_paging import AsyncItemPaged

log = logging.getLogger("aos.foundry")

PREFIX = "thread_"
"""How the ids of this generation's conversations begin."""
FIRST_LOOK, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between looks at a run that goes on: at first, and at most."""
RUN_LIFE = 600.0
"""Seconds after which the service ends a run."""
TOO_LATE = 60.0
"""Seconds before that end from which no run is gone on with: it would end in the middle of a step."""
CANCELLING = 15.0
"""Seconds to wait for a run to end that was cancelled."""
KEPT = 2
"""Assistants kept per agent: the current one, and the one before it, whose turns may still go on."""
OF_THE_MODEL = frozenset({"rate_limit_exceeded", "content_filter", "context_length_exceeded"})
"""Why runs fail that has nothing to do with their tools."""
PAGE = 100
MANY = 1000
"""Messages, and runs, read at most when looking for what came after an anchor."""

Parsed = TypeVar("Parsed", bound=BaseModel)


class ThreadsAdapter:
    """`FoundryPort` on assistants, threads and runs.

    An agent's version is an assistant of its own, because conversations in work must not change their agent.

    Args:
        app_name: Written into the metadata of what is made; only agents that carry it are touched.
        deployments: Of the project; with the fallback that the settings allow.
    """

    def __init__(
        self,
        clients: FoundryClients,
        provisioner: Provisioner,
        app_name: str,
        deployments: Deployments | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clients = clients
        self._provisioner = provisioner
        self._app_name = app_name
        self._deployments = deployments or Deployments(clients)
        self._clock = clock or SystemClock()

    # --- agents

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
        """The newest of our assistants by name; names of assistants need not differ, so others do not matter."""
        newest: dict[str, KnownAgent] = {}
        with foundry_errors("listing agents"):
            async for name, found in self._ours():
                newest.setdefault(name, found)
        return newest

    async def find_agent(self, name: str) -> KnownAgent | None:
        """The newest of our assistants of this name, or None."""
        with foundry_errors(f"finding agent {name}"):
            found = await self._assistants(name, 1)
        return found[0] if found else None

    async def delete_agent(self, name: str) -> bool:
        """Deletes our assistants of this name."""
        with foundry_errors(f"deleting agent {name}"):
            found = await self._assistants(name, MANY)
            for assistant in found:
                await self._delete_assistant(name, assistant.version)
        return bool(found)

    async def create_agent(self, name: str, spec: AgentSpec, definition_hash: str) -> str:
        """Makes an assistant and returns its id; removes those before the last one."""
        from azure.ai.agents.models import FunctionDefinition, FunctionToolDefinition

        await self._deployments.require(spec.deployment)
        tools: list[Any] = [
            FunctionToolDefinition(
                function=FunctionDefinition(name=f.name, description=f.description, parameters=dict(f.parameters))
            )
            for f in spec.functions
        ]
        tools += thread_tools(spec)
        metadata = {"aos_app": self._app_name, "aos_agent": spec.agent_id, "aos_hash": definition_hash}
        with foundry_errors(f"creating agent {name}"):
            made = await self._clients.agents.create_agent(
                model=spec.deployment, name=name, instructions=spec.instructions, tools=tools, metadata=metadata
            )
            assistant_id = present(made.id)
            for superseded in (await self._assistants(name, PAGE))[KEPT:]:
                if superseded.version != assistant_id:
                    await self._delete_assistant(name, superseded.version)
        return assistant_id

    async def _delete_assistant(self, name: str, assistant_id: str) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            await self._clients.agents.delete_agent(assistant_id)
        except ResourceNotFoundError:
            log.info("assistant %s of agent %s was removed by somebody else", assistant_id, name)

    async def _assistants(self, name: str, limit: int) -> list[KnownAgent]:
        """Our assistants of this name, newest first."""
        found: list[KnownAgent] = []
        async with aclosing(self._ours()) as assistants:
            async for assistant_name, assistant in assistants:
                if assistant_name == name:
                    found.append(assistant)
                if len(found) >= limit:
                    break
        return found

    async def _ours(self) -> AsyncGenerator[tuple[str, KnownAgent]]:
        """Names and assistants that this app made, newest first."""
        # The SDK's pager asks for one more page after the last one.
        async for page in self._clients.agents.list_agents(limit=PAGE, order="desc").by_page():
            count = 0
            async for assistant in page:
                count += 1
                metadata = assistant.metadata or {}
                if metadata.get("aos_app") == self._app_name:
                    definition, agent_id = str(metadata.get("aos_hash", "")), str(metadata.get("aos_agent", ""))
                    yield str(assistant.name), KnownAgent(present(assistant.id), definition, True, agent_id)
            if count < PAGE:
                break

    # --- conversations

    async def open_conversation(self, key: ConversationKey) -> str:
        metadata = {
            "aos_app": self._app_name,
            "aos_agent": key.agent_id,
            "aos_conversation": key.conversation_id,
        }
        with foundry_errors("opening a thread"):
            thread = await self._clients.agents.threads.create(metadata=metadata)
            if not present(thread.id).startswith(PREFIX):
                raise ValueError(f"the id of a thread is {thread.id!r}")
            return thread.id

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
        """See the port; a run is polled, so its text is told at once, at its end."""
        _own(remote_id)
        given = {output.call_id: output.output for output in outputs}
        with foundry_errors(f"a run of {agent.name}"):
            async with asyncio.timeout(timeout):
                tap = None if on_text is None else Tap(on_text)
                run = await self._advance(agent, remote_id, given, text, tap)
                run = await self._watch(remote_id, run)
                if run.status == "failed" and _code(run) not in OF_THE_MODEL:
                    await self._check_connected(agent)
                reply = await self._reply(remote_id, run)
        if on_text is not None and tap is not None and not tap.heard and reply.text:
            # The run was already going on, or its stream broke off before the first piece.
            on_text(reply.text)
        return reply

    async def items_after(self, remote_id: str, anchor: str | None) -> list[RemoteItem]:
        _own(remote_id)
        with foundry_errors("reading a thread"):
            client = self._clients.agents
            messages, runs = await asyncio.gather(
                listed(client.messages.list(remote_id, limit=PAGE, order="desc"), Message, MANY),
                listed(client.runs.list(remote_id, limit=PAGE, order="desc"), Run, MANY),
            )
            entries = in_order(messages[::-1], runs[::-1])
            if anchor is not None:
                first = next((at for at, entry in enumerate(entries) if entry.id == anchor.partition("/")[0]), None)
                entries = [] if first is None else entries[first:]

            async def steps(run: Run) -> list[Step]:
                return await self._steps(remote_id, run)

            items = await items_of(entries, {message.id: message for message in messages}, steps)
        if anchor is None:
            return items
        place = next((at for at, item in enumerate(items) if item.item_id == anchor), None)
        if place is None:
            raise FoundryRefused(f"Thread {remote_id} has no item {anchor!r}.")
        return items[place + 1 :]

    # --- runs

    async def _advance(
        self, agent: AgentRef, thread: str, given: dict[str, str], text: str | None, tap: Tap | None
    ) -> Run:
        """Gives the input to the run that waits for it, or to a new one."""
        from azure.core.exceptions import HttpResponseError

        if text is not None and not given:
            # Most turns begin so: whether a run is in the way is looked at only when the service says that one is.
            try:
                return await self._begin(agent, thread, await self._say(thread, text), tap)
            except HttpResponseError as error:
                if error.status_code != 400:
                    raise
                latest = await self._latest_run(thread)
                if latest is None or latest.status not in ACTIVE:
                    raise
        else:
            latest = await self._latest_run(thread)
        if latest is not None and latest.status in ACTIVE:
            going = await self._go_on(thread, latest, given, text, tap)
            if going is not None:
                return going
        after: str | None = None
        if given:
            results = await self._results(thread, latest, given)
            after = await self._say(thread, outputs_message(results), kind=OUTPUTS)
        if text is not None:
            after = await self._say(thread, text)
        return await self._begin(agent, thread, after or await self._latest_message(thread), tap)

    async def _go_on(
        self, thread: str, run: Run, given: dict[str, str], text: str | None, tap: Tap | None
    ) -> Run | None:
        """Goes on with an active run, or ends it and returns None: the input needs a new one."""
        late = (run.expires_at or run.created_at + RUN_LIFE) - self._clock.now() < TOO_LATE
        waits = {call.id for call in run.required}
        if text is None and not late:
            if run.status == "requires_action" and (waits & given.keys() or not given):
                if not given:
                    return run
                answers = {call_id: given.get(call_id, ABANDONED) for call_id in sorted(waits)}
                return await self._submit(thread, run, answers, tap)
            if run.status in RUNNING and not given:
                return run
        if run.status in ("queued", "in_progress") and not late:
            # A step of ours may be running there: what it brings is adopted.
            raise FoundryUnavailable("The thread is busy with a run.", sent=True, code="conversation_locked")
        await self._cancel(thread, run)
        return None

    async def _say(self, thread: str, text: str, kind: str | None = None) -> str:
        metadata = None if kind is None else {KIND: kind}
        message = await self._clients.agents.messages.create(thread, role="user", content=text, metadata=metadata)
        return present(message.id)

    async def _begin(self, agent: AgentRef, thread: str, after: str, tap: Tap | None) -> Run:
        runs, metadata = self._clients.agents.runs, {INPUT: after}
        if tap is not None:
            handler: Any = tap  # not of the SDK's class, of which only `initialize` is called
            await runs.stream(thread, agent_id=agent.version, metadata=metadata, event_handler=handler)
            run = await tap.listen() or await self._latest_run(thread)
            if run is None:
                raise FoundryUnavailable("Foundry's stream ended before it showed the run.", sent=True)
            return run
        return Run.model_validate(dict(await runs.create(thread, agent_id=agent.version, metadata=metadata)))

    async def _submit(self, thread: str, run: Run, answers: dict[str, str], tap: Tap | None) -> Run:
        runs = self._clients.agents.runs
        # Dicts are what it sends.
        outputs: list[Any] = [{"tool_call_id": call_id, "output": output} for call_id, output in answers.items()]
        if tap is not None:
            handler: Any = tap
            await runs.submit_tool_outputs_stream(thread, run.id, tool_outputs=outputs, event_handler=handler)
            seen = await tap.listen()
            return seen or Run.model_validate(dict(await runs.get(thread, run.id)))
        return Run.model_validate(dict(await runs.submit_tool_outputs(thread, run.id, tool_outputs=outputs)))

    async def _watch(self, thread: str, run: Run) -> Run:
        """Waits until the run stops."""
        pause = FIRST_LOOK
        while run.status in RUNNING:
            await self._clock.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)
            run = Run.model_validate(dict(await self._clients.agents.runs.get(thread, run.id)))
        return run

    async def _check_connected(self, agent: AgentRef) -> None:
        """A run fails, too, when a connected agent that the service should run was deleted.

        Raises:
            AgentGone: That is so: the agent has to be made anew, with those that it is connected to.
        """
        if gone := await gone_agents(self._clients.agents, agent.version):
            raise AgentGone(f"Connected agents of {agent.name} were deleted in Foundry: {', '.join(gone)}.")

    async def _cancel(self, thread: str, run: Run) -> None:
        from azure.core.exceptions import HttpResponseError

        log.info("cancelling run %s of %s, which was %s", run.id, thread, run.status)
        if run.status != "cancelling":
            try:
                await self._clients.agents.runs.cancel(thread, run.id)
            except HttpResponseError as error:
                # It ended meanwhile.
                if error.status_code != 400:
                    raise
        async with asyncio.timeout(CANCELLING):
            await self._watch(thread, run.model_copy(update={"status": "cancelling"}))

    async def _latest_run(self, thread: str) -> Run | None:
        return next(iter(await listed(self._clients.agents.runs.list(thread, limit=1, order="desc"), Run, 1)), None)

    async def _latest_message(self, thread: str) -> str:
        pages = self._clients.agents.messages.list(thread, limit=1, order="desc")
        return next((message.id for message in await listed(pages, Message, 1)), "")

    async def _steps(self, thread: str, run: Run) -> list[Step]:
        """Oldest first."""
        return await listed(self._clients.agents.run_steps.list(thread, run.id, limit=PAGE, order="asc"), Step, MANY)

    async def _results(self, thread: str, run: Run | None, given: dict[str, str]) -> list[Result]:
        """What tools said: to the run that ended, all of which went with it, and what was given now."""
        results: dict[str, Result] = {}
        for step in [] if run is None or run.status == "completed" else await self._steps(thread, run):
            for call in step.step_details.tool_calls:
                output = given.get(call.id, call.function.output if call.function else None)
                if call.function is not None and output is not None:
                    name, arguments = whole(call.function.name), whole(call.function.arguments)
                    results[call.id] = Result(tool_call_id=call.id, name=name, arguments=arguments, output=output)
        for call_id, output in given.items():
            results.setdefault(call_id, Result(tool_call_id=call_id, output=output))
        return list(results.values())

    async def _reply(self, thread: str, run: Run) -> ModelReply:
        if run.status == "requires_action":
            calls = distinct(
                FunctionCall(call.id, whole(call.function.name), whole(call.function.arguments))
                for call in run.required
                if call.function is not None
            )
            if not calls:
                await self._cancel(thread, run)
                raise FoundryRefused("The run waits for something that is no function call.", code="unknown_action")
            return ModelReply("", calls, Usage(), run.model or "", f"{run.id}/{calls[-1].call_id}")
        if run.status == "incomplete":
            reason = run.incomplete_details.reason if run.incomplete_details else None
        elif run.status == "completed":
            reason = None
        else:
            raise _failed(run)
        text, anchor = await self._answer(thread, run)
        if run.status == "incomplete" and (reason == "content_filter" or not text):
            raise FoundryRefused(f"The model's answer is incomplete: {reason or 'no reason given'}.", code=reason)
        used = run.usage
        usage = Usage(used.prompt_tokens, used.completion_tokens, used.total_tokens) if used else Usage()
        return ModelReply(text, (), usage, run.model or "", anchor, truncated=run.status == "incomplete")

    async def _answer(self, thread: str, run: Run) -> tuple[str, str | None]:
        """What the run said after its last tool calls, and the id of the last item."""
        pages = self._clients.agents.messages.list(thread, run_id=run.id, limit=PAGE, order="desc")
        messages, steps = await asyncio.gather(listed(pages, Message, PAGE), self._steps(thread, run))
        said = {message.id: message.text for message in messages}
        texts: list[str] = []
        anchor: str | None = None
        for step in steps:
            if step.type == "tool_calls":
                texts.clear()
                for call in step.step_details.tool_calls:
                    if call.function is not None:
                        # What the service called itself is no item of the thread.
                        anchor = f"{run.id}/{call.id}/output"
            elif step.step_details.message_creation is not None:
                message_id = step.step_details.message_creation.message_id
                if message_id in said:
                    texts.append(said[message_id])
                    anchor = f"{run.id}/{message_id}"
        return "".join(texts), anchor

    # --- around

    async def delete_conversation(self, remote_id: str) -> None:
        await delete_conversation(self._clients, remote_id)

    async def check(self) -> None:
        await self._deployments.check()

    async def close(self) -> None:
        await self._clients.close()


async def listed(pages: AsyncItemPaged[Any], kind: type[Parsed], limit: int) -> list[Parsed]:
    """Parsed items of a listing, at most `limit`.

    The SDK's pager asks for one more page after the last one, and takes a limit for the size of pages.
    """
    found: list[Parsed] = []
    async for page in pages.by_page():
        before = len(found)
        async for item in page:
            found.append(kind.model_validate(dict(item)))
        if len(found) >= limit or len(found) - before < PAGE:
            break
    return found[:limit]


def _own(remote_id: str) -> None:
    if not remote_id.startswith(PREFIX):
        raise ConversationGone(
            f"Conversation {remote_id} is of the newer API of the Foundry Agent Service; FOUNDRY_API=threads cannot "
            "reach it. It is there again with FOUNDRY_API=responses."
        )


def _code(run: Run) -> str:
    return (run.last_error.code if run.last_error else "") or run.status


def _failed(run: Run) -> FoundryRefused | FoundryUnavailable:
    """Why a run brought no answer."""
    code = _code(run)
    message = (run.last_error.message if run.last_error else "") or "no reason given"
    if code in ("rate_limit_exceeded", "server_error") or run.status == "expired":
        # Its input stayed in the thread.
        detail = f"The run {run.status}: {message}"
        return FoundryUnavailable(detail, sent=True, code=code, retry_after=seconds_in(message))
    return FoundryRefused(f"The run {run.status}: {message}", code=code)
