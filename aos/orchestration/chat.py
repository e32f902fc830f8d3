"""What backends share that keep no conversation themselves: all that was said is sent with each question."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from aos.foundry.values import whole
from aos.ml.errors import TOO_LONG
from aos.orchestration.model_types import ModelRefused, ModelRequest, ModelType, Said, Thread, ThreadStore

T = TypeVar("T")
log = logging.getLogger("aos.orchestration")

INSTRUCTIONS = "You are an agent of a company. Answer truthfully and to the point; say so where you do not know."


async def thread_of(backend: ModelType, request: ModelRequest, threads: ThreadStore) -> Thread:
    """The conversation so far."""
    return await threads.load(backend, request.conversation_id) or Thread(f"aos_{uuid.uuid4().hex}")


async def within_context(thread: Thread, ask: Callable[[Thread], Awaitable[T]]) -> tuple[T, Thread]:
    """Asks with the conversation so far; with ever less of its beginning while the model says that it is too long.

    Returns:
        The answer, and what is left of the conversation: what did not fit once will not fit later.
    """
    while True:
        try:
            return await ask(thread), thread
        except ModelRefused as error:
            if error.code != TOO_LONG or not thread.history:
                raise
            # Questions with their answers.
            kept = thread.history[2 * ((len(thread.history) + 3) // 4) :]
            log.info("%s: too long for its model, %d messages are kept", thread.thread_id, len(kept))
            thread = replace(thread, history=kept)


async def went_on(
    backend: ModelType, request: ModelRequest, threads: ThreadStore, thread: Thread, answer: str
) -> Thread:
    """The conversation with a question and its answer, saved."""
    grown = Thread(thread.thread_id, (*thread.history, Said("user", request.text), Said("assistant", whole(answer))))
    await threads.save(backend, request.conversation_id, grown)
    return grown


def instructions(request: ModelRequest, *, own_model: bool) -> str:
    """The system message; a model that is not the domain's own is told the domain."""
    text = request.instructions or INSTRUCTIONS
    return text if own_model else f"{text}\n\nThe questions are about this domain: {request.domain}."
