"""What the process works on right now, task by task: the ids that logs carry."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from opentelemetry import context as contexts


class Work(NamedTuple):
    """Of a task; empty where it is about nothing in particular."""

    agent_id: str = ""
    conversation_id: str = ""
    operation_id: str = ""


NOTHING = Work()
_work: ContextVar[Work] = ContextVar("aos_work", default=NOTHING)


def current() -> Work:
    """What the running task works on."""
    return _work.get()


class working:
    """Whatever is done within is about this, and stands where it stood in its trace afterwards."""

    __slots__ = ("_place", "_token", "_traced", "_work")

    def __init__(self, work: Work, *, traced: bool) -> None:
        self._work = work
        self._traced = traced

    def __enter__(self) -> None:
        self._token = _work.set(self._work)
        if self._traced:
            self._place = contexts.attach(contexts.get_current())

    def __exit__(self, *error: object) -> None:
        if self._traced:
            contexts.detach(self._place)
        _work.reset(self._token)


def narrow(operation_id: str) -> None:
    """From here on, within `working`, it is about this operation."""
    agent_id, conversation_id, before = _work.get()
    if before != operation_id:
        _work.set(Work(agent_id, conversation_id, operation_id))
