"""What an adapter of a system is. Standard library only: every system's interpreter imports it.

The script is the same for all: a text turn sends `hello` and is answered `hello`; a turn with a tool sends `tool`, the
model asks for `echo` with the argument `{"text": "hi"}`, and its reply is what the tool returned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

TEXT, TOOL = "hello", "tool"
REPLIES = {TEXT: "hello", TOOL: "echoed"}
INSTRUCTIONS = "Answer briefly, and use your tool when you are told to."
ARGUMENTS = '{"text": "hi"}'


class Adapter(ABC):
    """One agent with one tool, and how to make more of them.

    Attributes:
        tool_runs: How often the tool has run in this process.
        keeps_agents: Whether there is an agent between messages that can be made and weighed.
    """

    keeps_agents = True

    def __init__(self) -> None:
        self.tool_runs = 0

    def echo(self, text: str) -> str:
        """The one tool: it counts, and answers at once."""
        if text != "hi":
            raise AssertionError(f"the tool was called with {text!r}")
        self.tool_runs += 1
        return REPLIES[TOOL]

    @abstractmethod
    async def open(self) -> None:
        """Makes the agent that takes the turns."""

    @abstractmethod
    def create(self) -> object:
        """Makes one more agent with the tool, ready for turns; kept alive by whoever calls.

        What a system lets its agents share (the model's client, the tool) is made once, by `open`.
        """

    @abstractmethod
    async def turn(self, text: str) -> str:
        """One whole turn in a new conversation; its reply."""

    async def close(self) -> None:
        """Ends what `open` began."""
        return
