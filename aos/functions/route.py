"""The pair of queues over which a function is called, as a turn remembers it."""

from __future__ import annotations

from dataclasses import dataclass

_KIND = "azure_function:"


@dataclass(frozen=True, slots=True)
class FunctionRoute:
    """Where calls go and where replies come from.

    It stands in the place of the MCP server's id in a call, so that a call in work keeps its queues however the
    registry changes. Ids of MCP servers have no colon.
    """

    input_queue: str
    output_queue: str

    def __str__(self) -> str:
        return f"{_KIND}{self.input_queue}/{self.output_queue}"

    @property
    def poison_queue(self) -> str:
        """Where the Functions host puts a message on which the function failed five times."""
        return f"{self.input_queue}-poison"


def route_of(server: str) -> FunctionRoute | None:
    """The queues of a call's `server`; None if it is an MCP server."""
    if not server.startswith(_KIND):
        return None
    queue_in, _, queue_out = server.removeprefix(_KIND).partition("/")
    return FunctionRoute(queue_in, queue_out)
