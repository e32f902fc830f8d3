"""What backends share that keep no conversation themselves: all that was said is sent with each question."""

from __future__ import annotations

import uuid

from aos.foundry.values import whole
from aos.orchestration.model_types import ModelRequest, ModelType, Said, Thread, ThreadStore

INSTRUCTIONS = "You are an agent of a company. Answer truthfully and to the point; say so where you do not know."


async def thread_of(backend: ModelType, request: ModelRequest, threads: ThreadStore) -> Thread:
    """The conversation so far."""
    return await threads.load(backend, request.conversation_id) or Thread(f"aos_{uuid.uuid4().hex}")


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
