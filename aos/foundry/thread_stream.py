"""Runs as streams of server-sent events, for text that is shown while it comes.

Event names and data: https://platform.openai.com/docs/api-reference/assistants-streaming/events. A stream only shows;
what became of the run is read from the run, so a stream that breaks off costs nothing but the rest of its pieces.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from pydantic import BaseModel

from aos.foundry.thread_wire import Run
from aos.foundry.values import whole

log = logging.getLogger("aos.foundry")

LONGEST_EVENT = 8 * 1024 * 1024
"""Bytes; an event of a run holds the agent's instructions and tools."""


class Tap:
    """Stands where the SDK wants a handler of its own, and takes the bytes: its handlers swallow errors and call tools.

    Args:
        on_text: Called with each piece of text.
    """

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._chunks: AsyncIterator[bytes] | None = None
        self.heard = False

    def initialize(self, response_iterator: AsyncIterator[bytes], submit_tool_outputs: object) -> None:
        """Called by the SDK when the stream is open."""
        self._chunks = response_iterator

    async def listen(self) -> Run | None:
        """Reads the stream to its end.

        Returns:
            The run as last seen; None: the stream did not show it.

        Raises:
            AzureError: The stream broke off before it showed the run.
            ValueError: It is none.
        """
        from azure.core.exceptions import AzureError

        run: Run | None = None
        if self._chunks is None:
            return None
        events = _events(self._chunks)
        try:
            async for name, data in events:
                if name == "thread.message.delta":
                    piece = whole(_Chunk.model_validate_json(data).text)
                    if piece:
                        self.heard = True
                        self._on_text(piece)
                elif name.startswith("thread.run.") and not name.startswith("thread.run.step"):
                    run = Run.model_validate_json(data)
                elif name in ("done", "error"):
                    break
        except (AzureError, ValueError) as error:
            if run is None:
                raise
            log.warning("the stream of run %s broke off: %s", run.id, type(error).__name__)
        finally:
            await events.aclose()
        return run


class _Text(BaseModel):
    value: str = ""


class _Part(BaseModel):
    text: _Text | None = None


class _Delta(BaseModel):
    content: tuple[_Part, ...] = ()


class _Chunk(BaseModel):
    delta: _Delta

    @property
    def text(self) -> str:
        return "".join(part.text.value for part in self.delta.content if part.text is not None)


async def _events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[str, bytes], None]:
    """Names and data. A last event that was cut off is none."""
    buffer = b""
    async for chunk in chunks:
        buffer = (buffer + chunk).replace(b"\r\n", b"\n")
        *whole_events, buffer = buffer.split(b"\n\n")
        if len(buffer) > LONGEST_EVENT:
            raise ValueError("an event of the stream does not end")
        for event in whole_events:
            fields = [line.partition(b":") for line in event.split(b"\n")]
            values = {name: value.removeprefix(b" ") for name, _, value in fields}
            yield values.get(b"event", b"").decode(), values.get(b"data", b"")
