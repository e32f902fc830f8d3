"""langgraph: a `StateGraph` of a model node and a `ToolNode`."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import AIMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from benchmarks.peers.contract import ARGUMENTS, INSTRUCTIONS, REPLIES, TEXT, TOOL, Adapter

CALL = {"name": "echo", "args": json.loads(ARGUMENTS), "id": "call_1"}


def answer(messages: list[Any]) -> AIMessage:
    """The script."""
    last = messages[-1]
    if isinstance(last, ToolMessage):
        return AIMessage(last.content)
    if last.content == TOOL:
        return AIMessage("", tool_calls=[CALL])
    return AIMessage(REPLIES[TEXT])


async def model(state: MessagesState) -> dict[str, Any]:
    """The node of the model."""
    return {"messages": [answer([SystemMessage(INSTRUCTIONS), *state["messages"]])]}


class Peer(Adapter):
    """Nothing is kept between the turns; the tool is shared by the graphs."""

    async def open(self) -> None:
        @tool
        def echo(text: str) -> str:
            """Answers at once."""
            return self.echo(text)

        self._tools = [echo]
        self._graph = self.create()

    def create(self) -> Any:
        graph = StateGraph(MessagesState)
        graph.add_node("model", model)
        graph.add_node("tools", ToolNode(self._tools))
        graph.add_edge(START, "model")
        graph.add_conditional_edges("model", tools_condition)
        graph.add_edge("tools", "model")
        return graph.compile(checkpointer=self.saver())

    def saver(self) -> Any:
        """Where the checkpoints are."""
        return None

    def thread(self) -> dict[str, Any]:
        """The configuration of a new conversation."""
        return {}

    async def turn(self, text: str) -> str:
        ended = await self._graph.ainvoke({"messages": [("user", text)]}, self.thread())
        return str(ended["messages"][-1].content)
