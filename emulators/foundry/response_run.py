"""One response being made: a task that asks the model and stores how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

from emulators.foundry.azure_functions import AzureFunction, FunctionCaller
from emulators.foundry.items import turns
from emulators.foundry.model import (
    ArgumentsDelta,
    CallStarted,
    Finished,
    JsonObject,
    Model,
    ModelError,
    ModelRequest,
    TextDelta,
    Usage,
    count_tokens,
    input_tokens,
)
from emulators.foundry.response_events import ResponseBuilder
from emulators.foundry.state import State

_log = logging.getLogger("emulators.foundry")


class ResponseRun:
    """Runs apart from the request that asked for it, so that a lost client need not stop it.

    ``error`` is set when the model failed; `events` may be read by any number of readers.
    """

    def __init__(
        self,
        state: State,
        model: Model,
        request: ModelRequest,
        response: JsonObject,
        conversation: str | None,
        *,
        latency: float,
        on_end: Callable[[ResponseRun], None],
        served: Mapping[str, AzureFunction],
        functions: FunctionCaller,
    ) -> None:
        self._state = state
        self._model = model
        self._request = request
        self._builder = ResponseBuilder(response)
        self._latency = latency
        self._served = served
        self._functions = functions
        self._changed = asyncio.Event()
        self._on_end = on_end
        self.conversation = conversation
        self.ended = asyncio.Event()
        self.error: ModelError | None = None
        self._task = asyncio.create_task(self._run(), name=f"response {response['id']}")
        self._task.add_done_callback(self._settle)

    @property
    def response(self) -> JsonObject:
        """The response object as it stands."""
        return self._builder.response

    def cancel(self) -> None:
        """Stop; the response ends as ``cancelled`` without output."""
        self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._ask()
        except ModelError as error:
            self.error = error
        except Exception as error:
            _log.exception("response %s failed", self.response["id"])
            self.error = ModelError("server_error", f"The model failed: {type(error).__name__}.", status=500)

    def _settle(self, task: asyncio.Task[None]) -> None:
        # A callback of the task and not its last lines: a task cancelled before its first step runs no line at all.
        if task.cancelled():
            self._builder.cancel()
        elif self.error is not None:
            self._builder.fail(self.error)
        try:
            self._state.finish_response(self.response, self.conversation, self._builder.output)
        finally:
            self._on_end(self)
            self.ended.set()
            self._changed.set()

    async def _ask(self) -> None:
        builder, spent = self._builder, Usage(0, 0)
        if self._latency:
            await asyncio.sleep(self._latency)
        while True:
            reason, counted = await self._step()
            spent = Usage(spent.input_tokens + counted.input_tokens, spent.output_tokens + counted.output_tokens)
            if reason != "stop":
                builder.incomplete(reason, spent)
                return
            calls = builder.end_step()
            self._changed.set()
            outputs = await asyncio.gather(*map(self._serve, calls))
            for call, output in zip(calls, outputs, strict=True):
                builder.returned(call, output)
            said = builder.step_output
            if not calls or any(item["type"] == "function_call" for item in said):
                builder.complete(spent)
                return
            self._request = replace(self._request, history=(*self._request.history, *turns(said)))
            builder.begin_step()
            self._changed.set()

    async def _step(self) -> tuple[str, Usage]:
        """One step of the model: how it ended, and the tokens that it took."""
        builder = self._builder
        reason, counted = "stop", Usage(0, 0)
        async for event in self._model.step(self._request):
            match event:
                case TextDelta(text):
                    builder.text(text)
                case CallStarted(index, name):
                    builder.call(index, name, served=name in self._served)
                case ArgumentsDelta(index, text):
                    builder.arguments(index, text)
                case Finished(reason, usage):
                    counted = usage or self._count()
            self._changed.set()
        return reason, counted

    async def _serve(self, call: JsonObject) -> str:
        function = self._served[str(call["name"])]
        return await self._functions.call(function, str(call["call_id"]), str(call["arguments"]))

    def _count(self) -> Usage:
        produced = 0
        for item in self._builder.step_output:
            produced += count_tokens(f"{item.get('name', '')} {item.get('arguments', '')}")
        return Usage(input_tokens(self._request), produced + count_tokens(self._builder.produced_text))

    async def events(self) -> AsyncIterator[JsonObject]:
        """All events from the first on, as they come, until the response has ended."""
        seen = 0
        while True:
            while seen < len(self._builder.events):
                yield self._builder.events[seen]
                seen += 1
            if self.ended.is_set():
                return
            self._changed.clear()
            await self._changed.wait()
