"""One response being made: a task that asks the model and stores how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

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
    ) -> None:
        self._state = state
        self._model = model
        self._request = request
        self._builder = ResponseBuilder(response)
        self._latency = latency
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
        builder = self._builder
        if self._latency:
            await asyncio.sleep(self._latency)
        async for event in self._model.step(self._request):
            match event:
                case TextDelta(text):
                    builder.text(text)
                case CallStarted(index, name):
                    builder.call(index, name)
                case ArgumentsDelta(index, text):
                    builder.arguments(index, text)
                case Finished(reason, usage):
                    counted = usage or self._count()
                    if reason == "stop":
                        builder.complete(counted)
                    else:
                        builder.incomplete(reason, counted)
            self._changed.set()

    def _count(self) -> Usage:
        produced = 0
        for item in self._builder.output:
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
