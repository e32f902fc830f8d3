"""A coroutine in a context of its own, without a task of its own."""

from __future__ import annotations

import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


@types.coroutine
def apart(work: Coroutine[Any, Any, ResultT]) -> Generator[Any, Any, ResultT]:
    """Await `work`; context variables that it sets are gone when it ends, as if it had run in a task.

    A task would begin a turn of the event loop later, and whoever waits for it would go on another one later.
    """
    context = contextvars.copy_context()
    step: Callable[[Any], Any] = work.send
    value: Any = None
    while True:
        try:
            awaited = context.run(step, value)
        except StopIteration as end:
            result: ResultT = end.value
            return result
        try:
            value = yield awaited
            step = work.send
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:
            step, value = work.throw, error
