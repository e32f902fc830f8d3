"""Functions that the service calls itself: the SDK's tool, queues in Azurite, the function played by the test."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from azure.ai.agents.aio import AgentsClient
from azure.ai.agents.models import (
    AzureFunctionStorageQueue,
    AzureFunctionTool,
    FunctionDefinition,
    FunctionToolDefinition,
    RequiredFunctionToolCall,
    SubmitToolOutputsAction,
    ThreadMessageOptions,
    ThreadRun,
    ToolDefinition,
    ToolOutput,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.queue.aio import QueueClient

from emulators.azurite import Azurite
from emulators.foundry import FoundryEmulator

MODEL = "llama-3.3-70b"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


class Function:
    """A pair of queues and what lies behind them."""

    def __init__(self, azurite: Azurite) -> None:
        name = uuid.uuid4().hex[:8]
        self.endpoint = f"http://127.0.0.1:{azurite.ports['AOS_QUEUE_PORT']}/devstoreaccount1"
        connection = azurite.connection_string
        self.input = QueueClient.from_connection_string(connection, f"in-{name}")
        self.output = QueueClient.from_connection_string(connection, f"out-{name}")

    def tool(self, endpoint: str | None = None) -> list[ToolDefinition]:
        where = endpoint or self.endpoint
        tool = AzureFunctionTool(
            "double",
            "Doubles a number.",
            SCHEMA,
            input_queue=AzureFunctionStorageQueue(storage_service_endpoint=where, queue_name=self.input.queue_name),
            output_queue=AzureFunctionStorageQueue(storage_service_endpoint=where, queue_name=self.output.queue_name),
        )
        return list(tool.definitions)

    async def calls(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(30):
            while len(found) < count:
                with suppress(ResourceNotFoundError):  # not made yet
                    async for message in self.input.receive_messages():
                        found.append(json.loads(base64.b64decode(message.content)))
                        await self.input.delete_message(message)
                await asyncio.sleep(0.02)
        return found

    async def reply(self, value: object, correlation_id: str) -> None:
        body = json.dumps({"Value": value, "CorrelationId": correlation_id})
        await self.output.send_message(base64.b64encode(body.encode()).decode())


@pytest_asyncio.fixture
async def function(azurite: Azurite) -> AsyncIterator[Function]:
    function = Function(azurite)
    async with function.input, function.output:
        yield function


async def begin(agents: AgentsClient, tools: list[ToolDefinition], text: str) -> ThreadRun:
    agent = await agents.create_agent(model=MODEL, name="clerk", instructions="Doubles.", tools=tools)
    thread = await agents.threads.create(messages=[ThreadMessageOptions(role="user", content=text)])
    return await agents.runs.create(thread.id, agent_id=agent.id)


async def until(agents: AgentsClient, run: ThreadRun, *statuses: str) -> ThreadRun:
    async with asyncio.timeout(30):
        while run.status not in statuses:
            await asyncio.sleep(0.02)
            run = await agents.runs.get(run.thread_id, run.id)
    return run


async def said(agents: AgentsClient, run: ThreadRun) -> str:
    message = await agents.messages.get_last_message_text_by_role(run.thread_id, "assistant")  # type: ignore[arg-type] # takes the value, too
    assert message is not None
    return str(message.text.value)


async def test_the_service_calls_and_waits(agents: AgentsClient, function: Function) -> None:
    run = await begin(agents, function.tool(), '@tool double {"n": 21}')
    (call,) = await function.calls(1)
    assert call["n"] == 21
    waiting = await agents.runs.get(run.thread_id, run.id)
    assert waiting.status == "in_progress"
    await function.reply({"doubled": 42}, call["CorrelationId"])
    run = await until(agents, run, "completed")
    assert "42" in await said(agents, run)


async def test_replies_find_their_calls_in_any_order(agents: AgentsClient, function: Function) -> None:
    run = await begin(agents, function.tool(), '@tool double {"n": 1}\n@tool double {"n": 2}')
    calls = await function.calls(2)
    await function.output.send_message("what is nobody's holds nothing up")
    for call in sorted(calls, key=lambda call: -int(call["n"])):
        await function.reply(f"twice {call['n']}", call["CorrelationId"])
    run = await until(agents, run, "completed")
    answer = await said(agents, run)
    assert "twice 1" in answer
    assert "twice 2" in answer


async def test_a_reply_in_plain_text_that_is_not_ascii(agents: AgentsClient, function: Function) -> None:
    run = await begin(agents, function.tool(), '@tool double {"n": 6}')
    (call,) = await function.calls(1)
    reply = {"Value": "zw\u00f6lf", "CorrelationId": call["CorrelationId"]}
    await function.output.send_message(json.dumps(reply, ensure_ascii=False))
    run = await until(agents, run, "completed")
    assert "zw\u00f6lf" in await said(agents, run)


async def test_an_output_queue_that_cannot_be_used_for_a_while(agents: AgentsClient, function: Function) -> None:
    refused, again = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        (again if refused.is_set() else refused).set()
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    tool: Any = function.tool()[0].as_dict()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        binding = tool["azure_function"]["output_binding"]["storage_queue"]
        binding["queue_service_endpoint"] = f"http://127.0.0.1:{port}/devstoreaccount1"
        run = await begin(agents, [tool], '@tool double {"n": 21}')
        async with asyncio.timeout(30):
            await again.wait()
    await agents.runs.cancel(run.thread_id, run.id)
    assert (await until(agents, run, "cancelled", "completed")).status == "cancelled"


async def test_a_reply_counts_although_nobody_says_that_its_message_is_deleted(
    agents: AgentsClient, function: Function, azurite: Azurite
) -> None:
    deleted, over = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", azurite.ports["AOS_QUEUE_PORT"])

        async def answers() -> None:
            while answer := await back.read(65_536):
                writer.write(answer)

        answering = asyncio.create_task(answers())
        while (request := await reader.read(65_536)) and not request.startswith(b"DELETE "):
            forth.write(request)
        answering.cancel()
        forth.close()
        if request:
            deleted.set()
            await over.wait()
        writer.close()

    tool: Any = function.tool()[0].as_dict()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        binding = tool["azure_function"]["output_binding"]["storage_queue"]
        binding["queue_service_endpoint"] = f"http://127.0.0.1:{port}/devstoreaccount1"
        run = await begin(agents, [tool], '@tool double {"n": 21}')
        (call,) = await function.calls(1)
        await function.reply("twofold", call["CorrelationId"])
        run = await until(agents, run, "completed")
        assert "twofold" in await said(agents, run)
        await deleted.wait()
        over.set()


async def test_a_step_with_both_kinds_of_calls(agents: AgentsClient, function: Function) -> None:
    other = FunctionToolDefinition(function=FunctionDefinition(name="triple", description="x", parameters=SCHEMA))
    run = await begin(agents, [*function.tool(), other], '@tool double {"n": 1}\n@tool triple {"n": 1}')
    (call,) = await function.calls(1)
    await function.reply("twofold", call["CorrelationId"])
    run = await until(agents, run, "requires_action")
    action = run.required_action
    assert isinstance(action, SubmitToolOutputsAction)
    (left,) = action.submit_tool_outputs.tool_calls
    assert isinstance(left, RequiredFunctionToolCall)
    assert left.function.name == "triple"
    await agents.runs.submit_tool_outputs(
        run.thread_id, run.id, tool_outputs=[ToolOutput(tool_call_id=left.id, output="threefold")]
    )
    run = await until(agents, run, "completed")
    answer = await said(agents, run)
    assert "twofold" in answer
    assert "threefold" in answer


async def test_a_run_whose_function_never_replies_expires(
    function: Function, connect_agents: Callable[[str], AgentsClient]
) -> None:
    async with FoundryEmulator(run_expiry=0.5) as emulator, connect_agents(emulator.endpoint) as agents:
        run = await begin(agents, function.tool(), '@tool double {"n": 1}')
        run = await until(agents, run, "expired", "completed", "failed")
        assert run.status == "expired"


async def test_a_run_that_waits_can_be_cancelled(agents: AgentsClient, function: Function) -> None:
    run = await begin(agents, function.tool(), '@tool double {"n": 1}')
    await function.calls(1)
    await agents.runs.cancel(run.thread_id, run.id)
    assert (await until(agents, run, "cancelled", "completed")).status == "cancelled"


async def test_queues_elsewhere_are_not_called(agents: AgentsClient, function: Function) -> None:
    run = await begin(agents, function.tool("https://books.queue.core.windows.net"), '@tool double {"n": 1}')
    run = await until(agents, run, "completed")
    assert "on this machine only" in await said(agents, run)


async def test_a_tool_without_its_queues_is_refused(agents: AgentsClient) -> None:
    tool: Any = {"type": "azure_function", "azure_function": {"function": {"name": "double"}}}
    with pytest.raises(HttpResponseError, match="input_binding"):
        await agents.create_agent(model=MODEL, name="clerk", tools=[tool])
