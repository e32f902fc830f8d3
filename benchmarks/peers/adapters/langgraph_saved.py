"""langgraph with `InMemorySaver`: each turn is a new thread, with its checkpoints."""

from __future__ import annotations

import itertools
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from benchmarks.peers.adapters import langgraph


class Peer(langgraph.Peer):
    """The checkpoints of all turns stay until the process ends, as that saver has it."""

    def __init__(self) -> None:
        super().__init__()
        self._saver = InMemorySaver()
        self._threads = itertools.count(1)

    def saver(self) -> Any:
        return self._saver

    def thread(self) -> dict[str, Any]:
        return {"configurable": {"thread_id": str(next(self._threads))}}
