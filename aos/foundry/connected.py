"""Agents and threads of the threads generation that live as long as a block, and two agents connected in one.

For scripts and tests that talk to the service themselves. Agents of the registry ask each other through the kernel
(`aos.kernel.delegation`), which survives its process; what happens here does not.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

from aos.errors import FoundryRefused
from aos.foundry.faults import foundry_errors

if TYPE_CHECKING:
    from azure.ai.agents.aio import AgentsClient
    from azure.ai.agents.models import Agent, AgentThread, ThreadRun, ToolDefinition

log = logging.getLogger("aos.foundry")

T = TypeVar("T")
Function = Callable[[Mapping[str, Any]], Awaitable[str]]
"""Takes the arguments that the model gives, returns what it is told."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
CLEANING = 15.0
"""Seconds for deleting one agent or thread."""
ENDED = ("completed", "failed", "cancelled", "expired", "incomplete")


class Defined(Protocol):
    """A tool of the SDK, such as its `AzureFunctionTool`, or one of AOS with the same `definitions`."""

    @property
    def definitions(self) -> Sequence[ToolDefinition]: ...


class TemporaryAgents:
    """Makes agents and threads, runs them, and deletes all that it made when its block ends, however that ends.

    Also what is being made when the block is cancelled is deleted. What could not be deleted is in the log, and
    `python -m aos foundry list` shows its threads an hour later.

    Args:
        app_name: Written into the metadata of what is made.
    """

    def __init__(self, client: AgentsClient, app_name: str) -> None:
        self._client = client
        self._metadata = {"aos_app": app_name}
        self._made: list[tuple[str, Callable[[], Awaitable[None]]]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await _to_its_end(self._clean())

    async def agent(self, name: str, *, model: str, instructions: str, tools: Sequence[ToolDefinition] = ()) -> Agent:
        """Makes an agent.

        Raises:
            FoundryUnavailable, FoundryRefused: From Foundry.
        """

        async def make() -> Agent:
            with foundry_errors(f"creating agent {name}"):
                agent = await self._client.create_agent(
                    model=model, name=name, instructions=instructions, tools=list(tools), metadata=self._metadata
                )
            self._made.append((f"agent {agent.id}", lambda: self._client.delete_agent(agent.id)))
            return agent

        return await _to_its_end(make())

    async def thread(self) -> AgentThread:
        """Makes a thread.

        Raises:
            FoundryUnavailable, FoundryRefused: From Foundry.
        """

        async def make() -> AgentThread:
            with foundry_errors("opening a thread"):
                thread = await self._client.threads.create(metadata=self._metadata)
            self._made.append((f"thread {thread.id}", lambda: self._client.threads.delete(thread.id)))
            return thread

        return await _to_its_end(make())

    async def run(
        self,
        agent: Agent,
        thread: AgentThread,
        text: str,
        functions: Mapping[str, Function] | None = None,
        *,
        timeout: float = 300.0,
    ) -> str:
        """Says something to an agent and returns its answer.

        Args:
            functions: What its function tools do. One that raises is told to the model as an error; calls of one step
                run side by side.
            timeout: Seconds after which the run is cancelled.

        Raises:
            TimeoutError: There was no answer in time.
            FoundryRefused: The run failed; the detail says why.
            FoundryUnavailable: From Foundry.
        """
        from azure.ai.agents.models import MessageRole

        what = f"running agent {agent.id}"
        with foundry_errors(what):
            await self._client.messages.create(thread.id, role="user", content=text)
            run = await self._client.runs.create(thread.id, agent_id=agent.id)
        try:
            # Around the errors of Foundry: its end is none of them.
            async with asyncio.timeout(timeout):
                with foundry_errors(what):
                    run = await self._ended(run, functions or {})
        except BaseException as error:
            await _to_its_end(self._cancel(run))
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"Agent {agent.id} gave no answer within {timeout:g} s.") from None
            raise
        finally:
            if any(tool.type == "connected_agent" for tool in agent.tools or ()):
                await _to_its_end(self._adopt(run))
        if run.status != "completed":
            why = "" if run.last_error is None else f": {run.last_error.code}: {run.last_error.message}"
            raise FoundryRefused(
                f"The run of agent {agent.id} ended as {getattr(run.status, 'value', run.status)}{why}",
                code="run_failed",
            )
        with foundry_errors(what):
            answer = await self._client.messages.get_last_message_text_by_role(thread.id, MessageRole.AGENT)
        return "" if answer is None else answer.text.value

    async def _ended(self, run: ThreadRun, functions: Mapping[str, Function]) -> ThreadRun:
        from azure.ai.agents.models import RequiredFunctionToolCall, SubmitToolOutputsAction, ToolOutput

        pause = FIRST_PAUSE
        while run.status not in ENDED:
            action = run.required_action
            if run.status == "requires_action" and isinstance(action, SubmitToolOutputsAction):
                required = action.submit_tool_outputs.tool_calls
                calls = [call for call in required if isinstance(call, RequiredFunctionToolCall)]
                outputs = await asyncio.gather(*(_called(call.function, functions) for call in calls))
                answers = [
                    ToolOutput(tool_call_id=call.id, output=output) for call, output in zip(calls, outputs, strict=True)
                ]
                run = await self._client.runs.submit_tool_outputs(run.thread_id, run.id, tool_outputs=answers)
                pause = FIRST_PAUSE
                continue
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)
            run = await self._client.runs.get(run.thread_id, run.id)
        return run

    async def _cancel(self, run: ThreadRun) -> None:
        from azure.core.exceptions import AzureError

        try:
            async with asyncio.timeout(CLEANING):
                await self._client.runs.cancel(run.thread_id, run.id)
        except (AzureError, TimeoutError) as error:
            log.info("run %s was not cancelled: %s", run.id, error)

    async def _adopt(self, run: ThreadRun) -> None:
        """The threads that the service made for connected agents of a run are to be deleted as well."""
        from azure.core.exceptions import AzureError

        try:
            async with asyncio.timeout(CLEANING):
                async for step in self._client.run_steps.list(run.thread_id, run.id):
                    details = step.as_dict().get("step_details") or {}
                    for call in details.get("tool_calls") or ():
                        if thread_id := (call.get("connected_agent") or {}).get("thread_id"):
                            self._made.append((f"thread {thread_id}", partial(self._client.threads.delete, thread_id)))
        except (AzureError, TimeoutError) as error:
            log.warning("threads of the agents that run %s asked stay in Foundry: %s", run.id, error)

    async def _clean(self) -> None:
        from azure.core.exceptions import AzureError, ResourceNotFoundError

        while self._made:
            what, delete = self._made.pop()
            try:
                async with asyncio.timeout(CLEANING):
                    await delete()
            except ResourceNotFoundError:
                continue
            except (AzureError, TimeoutError) as error:
                log.warning("%s could not be deleted and stays in Foundry: %s", what, error)


async def connected_azure_function_agent(
    client: AgentsClient,
    query: str,
    tool: Defined,
    *,
    model: str,
    app_name: str = "aos",
    name: str = "azure-function-agent-foo",
    delegation: Literal["aos", "service"] = "aos",
    instructions: str = "Answer with the help of your function, and say what it said.",
    timeout: float = 300.0,
) -> str:
    """Asks an orchestrator agent, which may ask an agent that has an Azure Function as its tool.

    Both agents and their threads are made for this question and deleted afterwards, also on errors and when it is
    cancelled. That the other agent failed is told to the orchestrator's model, which answers with what it has.

    Args:
        tool: The Azure Function; the service calls it.
        model: Deployment of both agents.
        name: Of the agent with the function.
        delegation: Who runs that agent for the orchestrator: this process, or the service within the orchestrator's
            run (`ConnectedAgentTool`).
        timeout: Seconds for all of it.

    Raises:
        TimeoutError: There was no answer in time.
        FoundryRefused: The orchestrator failed, or could not be made.
        FoundryUnavailable: From Foundry.
    """
    from azure.ai.agents.models import ConnectedAgentTool, FunctionDefinition, FunctionToolDefinition

    parameters = {
        "type": "object",
        "properties": {"message": {"type": "string", "description": "What to ask it, complete."}},
        "required": ["message"],
    }
    called, described = "ask_function_agent", f"Ask agent {name}."
    asking = FunctionDefinition(name=called, description=described, parameters=parameters)
    async with asyncio.timeout(timeout), TemporaryAgents(client, app_name) as agents:
        worker = await agents.agent(name, model=model, instructions=instructions, tools=tool.definitions)
        connection: Sequence[ToolDefinition] = [FunctionToolDefinition(function=asking)]
        if delegation == "service":
            connection = ConnectedAgentTool(id=worker.id, name=called, description=described).definitions
        orchestrator = await agents.agent(
            f"{name}-orchestrator",
            model=model,
            instructions=f"Answer the question. Ask agent {name} for what only it can know.",
            tools=connection,
        )

        async def ask(arguments: Mapping[str, Any]) -> str:
            thread = await agents.thread()
            return await agents.run(worker, thread, str(arguments["message"]), timeout=timeout * 0.9)

        thread = await agents.thread()
        return await agents.run(orchestrator, thread, query, {called: ask}, timeout=timeout)


async def _called(call: Any, functions: Mapping[str, Function]) -> str:
    try:
        return await functions[call.name](json.loads(call.arguments or "{}"))
    except Exception as error:
        # Whatever it was: a call without an answer would hold up the run.
        log.warning("function %s failed", call.name, exc_info=error)
        return json.dumps({"error": f"{type(error).__name__}: {error}"})


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Waits for work to end even if the waiting task is cancelled meanwhile, which it is told afterwards."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled() and (failed := task.exception()) is not None:
            log.info("failed while it was cancelled: %s", failed)
        raise cancelled
    return task.result()
