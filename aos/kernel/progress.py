"""Turns as they go on, told within this process to whoever listens: text as the model says it, and saved operations.

Nothing depends on it: a listener may come late, read slowly or leave, and no turn waits for that. The operation's row
stays the truth, also for listeners whose turn is driven by another process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakValueDictionary

from aos.kernel.types import Operation

LONGEST_TEXT = 65_536
"""Characters of one model step that are kept for listeners to come, and that a listener may leave unread."""


class Listener:
    """What was told of one operation and not read yet; one reader at a time.

    The text of a model step is told from its beginning and without gaps: after the first piece that finds no room, the
    others of the step are left out. Of operations nothing is lost but states that a later one replaced.
    """

    __slots__ = ("_behind", "_channel", "_news", "_room", "_unread")

    def __init__(self, channel: Channel) -> None:
        self._channel: Channel | None = channel
        self._unread: deque[str | Operation] = deque()
        self._room = LONGEST_TEXT
        self._behind = False
        self._news = asyncio.Event()
        channel.join(self)

    async def next(self, timeout: float) -> list[str | Operation]:
        """What was told since the last call, in order, text that belongs together in one piece.

        Args:
            timeout: Seconds after which it returns an empty list.
        """
        if not self._unread and timeout > 0:
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait()
            except TimeoutError:
                return []
        self._news.clear()
        told: list[str | Operation] = []
        pieces: list[str] = []
        for item in self._unread:
            if isinstance(item, str):
                pieces.append(item)
                continue
            if pieces:
                told.append("".join(pieces))
                pieces.clear()
            told.append(item)
        if pieces:
            told.append("".join(pieces))
        self._unread.clear()
        self._room = LONGEST_TEXT
        return told

    def close(self) -> None:
        """Nothing is told any more. Closing twice is harmless."""
        if self._channel is not None:
            self._channel.leave(self)
            self._channel = None

    def hear(self, text: str) -> None:
        """Takes a piece of text, if there is room."""
        if self._behind or len(text) > self._room:
            self._behind = True
            return
        self._room -= len(text)
        self._unread.append(text)
        self._news.set()

    def see(self, operation: Operation) -> None:
        """Takes a saved operation, in place of one that was not read yet."""
        self._behind = False
        if self._unread and not isinstance(self._unread[-1], str):
            self._unread.pop()
        self._unread.append(operation)
        self._news.set()


class Channel:
    """Everybody who listens to one operation, and what the model said so far in the step that runs.

    Lives as long as a listener or a running model step holds it.
    """

    __slots__ = ("__weakref__", "_listeners", "_said", "_size")

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._said: list[str] = []
        self._size = 0

    @property
    def wants_text(self) -> bool:
        """Whether somebody listens, and nothing of the current model step was told yet."""
        return bool(self._listeners) and not self._said

    def join(self, listener: Listener) -> None:
        self._listeners.add(listener)
        if self._said:
            listener.hear("".join(self._said))

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def text(self, text: str) -> None:
        """The model said more. Never blocks, never fails."""
        if not text or self._size > LONGEST_TEXT:
            return
        self._said.append(text)
        self._size += len(text)
        if self._size <= LONGEST_TEXT:
            for listener in self._listeners:
                listener.hear(text)

    def saved(self, operation: Operation) -> None:
        """A step ended, or a result came: what the model says next is another text."""
        self._said.clear()
        self._size = 0
        for listener in self._listeners:
            listener.see(operation)


class Progress:
    """Tells listeners of this process how operations go on; without listeners it costs a look into an empty table."""

    def __init__(self) -> None:
        self._channels: WeakValueDictionary[str, Channel] = WeakValueDictionary()

    def listen(self, operation_id: str) -> Listener:
        """Begins to listen; `Listener.close` ends it."""
        channel = self._channels.get(operation_id)
        if channel is None:
            channel = self._channels[operation_id] = Channel()
        return Listener(channel)

    def on_text(self, operation_id: str) -> Callable[[str], None] | None:
        """Where to tell the text of a model step that is about to run.

        None when nobody listens, so that the step need not be streamed, and when this is a further try of a step that
        was heard in part: its text is not told twice, the operation will hold the whole.
        """
        channel = self._channels.get(operation_id) if self._channels else None
        return channel.text if channel is not None and channel.wants_text else None

    def saved(self, operation: Operation) -> None:
        """The operation was saved like this."""
        if self._channels:
            channel = self._channels.get(operation.operation_id)
            if channel is not None:
                channel.saved(operation)
