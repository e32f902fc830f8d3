"""One trace from the turn that asks over its call to the turn of the agent that is asked, in the kernel's world."""

from __future__ import annotations

import asyncio
from functools import partial

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from aos.kernel.delegation import child_operation
from aos.kernel.types import Operation
from aos.telemetry.observer import TurnObserver
from aos.telemetry.places import Place, place_of
from tests.kernel.world import KEY, World, run
from tests.telemetry.test_observer import attributes, named

ASKS = "1: ask cfo/1: look it up"
CHILD = child_operation("op0.1.0")


def context(span: ReadableSpan) -> SpanContext:
    found: SpanContext | None = span.context
    assert found is not None
    return found


def parent(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


async def place(world: World, operation_id: str) -> Place:
    operation = await world.store.operation(operation_id)
    assert operation is not None
    found = place_of(operation.trace)
    assert found is not None
    return found


def chain(spans: InMemorySpanExporter, request: SpanContext) -> None:
    """Request, asking turn, its call, the turn that was asked, its first model step: each below the one before."""
    asking, call, asked = (
        named(spans, name) for name in ("invoke_agent ceo", "execute_tool ask_cfo", "invoke_agent cfo")
    )
    assert [parent(asking), parent(call), parent(asked)] == [
        request.span_id,
        context(asking).span_id,
        context(call).span_id,
    ]
    finished = [span for span in spans.get_finished_spans() if span.name.startswith("chat ")]
    steps = [span for span in finished if parent(span) == context(asked).span_id]
    assert len(steps) == 2, "one before its tool, one after it"
    assert {context(span).trace_id for span in (asking, call, asked, *steps)} == {request.trace_id}
    assert attributes(call)["gen_ai.tool.call.id"] == "op0.1.0"
    assert attributes(call)["aos.status"] == "completed"


def test_the_turn_that_is_asked_stands_below_the_call_of_the_one_that_asks(spans: InMemorySpanExporter) -> None:
    requests: list[SpanContext] = []

    async def scenario(world: World) -> Operation:
        with trace.get_tracer("test").start_as_current_span("request") as request:
            requests.append(request.get_span_context())
            asked = await world.accept(ASKS)
        await world.kernel.drive(KEY)
        return await world.finished(asked)

    assert run(scenario, observer=TurnObserver("microsoft.foundry")).status == "completed"
    chain(spans, requests[0])


def test_so_it_does_when_the_process_died_that_wanted_to_ask(spans: InMemorySpanExporter) -> None:
    """Each process is killed at one of its contacts with the world; what is stored says where the turn stands."""
    observer, kills = TurnObserver("microsoft.foundry"), 0
    resumed: list[SpanContext] = []

    async def scenario(world: World, at: int) -> bool:
        first, message = world.process, world.message(ASKS)
        with trace.get_tracer("test").start_as_current_span("request") as request:
            await first.kernel.accept(KEY, message, "f", fresh=False)
        first.kill_at = first.points + at
        first.do(first.kernel.drive(KEY))
        await asyncio.sleep(50.0)
        asked_before = await world.store.operation(CHILD) is not None
        if died := not first.alive:
            world.start().do(world.kernel.drive(KEY))
        first.kill_at = None
        ended = await world.finished(await world.kernel.operation("op0"))
        assert ended.status == "completed"
        asking, asked = await place(world, "op0"), await place(world, CHILD)
        assert asking.parent.span_id == request.get_span_context().span_id, at
        assert (asked.parent, asked.turn.trace_id) == (asking.turn, request.get_span_context().trace_id), at
        if died and not asked_before and not resumed:
            resumed.append(request.get_span_context())
        return died

    while True:
        kills += 1
        spans.clear()
        first_of_its_kind = not resumed
        died = run(partial(scenario, at=kills), observer=observer)
        if resumed and first_of_its_kind:
            chain(spans, resumed[0])
        if not died:
            break
    assert kills > 10
    assert resumed, "none died between its own turn and the other one"
