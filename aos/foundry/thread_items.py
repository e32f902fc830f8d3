"""A thread as the sequence of items that recovery compares, equal in kind to those of a conversation.

A thread keeps messages; what a run asked of tools stands in the run's steps. Ids here: a user's message has its own,
what a run brought is `{run}/{message}`, `{run}/{call}` and `{run}/{call}/output`, a result that came as a message is
`{message}/{call}/output`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from aos.foundry.thread_wire import RUNNING, Message, Run, Step
from aos.foundry.values import whole
from aos.kernel.ports import RemoteItem

Entry = Message | Run


def in_order(messages: Sequence[Message], runs: Sequence[Run]) -> list[Entry]:
    """The users' messages, each followed by the runs that came after it.

    Times have whole seconds, so a run says in its metadata which message it came after; runs of others are placed by
    time.

    Args:
        messages, runs: Oldest first.
    """
    ours = [message for message in messages if message.role == "user"]
    places = {message.id: index for index, message in enumerate(ours)}
    after: dict[int, list[Run]] = {}
    for run in runs:
        place = places.get(run.input_id)
        if place is None:
            place = sum(message.created_at <= run.created_at for message in ours) - 1
        after.setdefault(place, []).append(run)
    entries: list[Entry] = list(after.get(-1, ()))
    for index, message in enumerate(ours):
        entries += [message, *after.get(index, ())]
    return entries


async def items_of(
    entries: Sequence[Entry], said: Mapping[str, Message], steps: Callable[[Run], Awaitable[Sequence[Step]]]
) -> list[RemoteItem]:
    """Items of the entries, in order.

    Args:
        said: The thread's messages by id.
        steps: Reads a run's steps, oldest first.
    """
    items: list[RemoteItem] = []
    for entry in entries:
        if isinstance(entry, Run):
            items += run_items(entry, await steps(entry), said)
        elif (answered := entry.answered) is not None:
            items += [RemoteItem(f"{entry.id}/{call}/output", "output", call_id=call) for call in answered]
        else:
            items.append(RemoteItem(entry.id, "user", text=entry.text))
    return items


def run_items(run: Run, steps: Sequence[Step], said: Mapping[str, Message]) -> list[RemoteItem]:
    """What a run brought.

    A run that goes on has not finished what stands last. One that failed, was cancelled or expired took the results
    given to it last along: they count as not given.
    """
    items: list[RemoteItem] = []
    for step in steps:
        if step.type == "message_creation":
            created = step.step_details.message_creation
            message = said.get(created.message_id) if created is not None else None
            if message is not None:
                items.append(RemoteItem(f"{run.id}/{message.id}", "text", text=message.text))
            continue
        calls = [(call.id, call.function) for call in step.step_details.tool_calls if call.function is not None]
        for call_id, function in calls:
            name, arguments = whole(function.name), whole(function.arguments)
            items.append(RemoteItem(f"{run.id}/{call_id}", "call", call_id=call_id, name=name, arguments=arguments))
        for call_id, function in calls:
            if function.output is not None:
                items.append(RemoteItem(f"{run.id}/{call_id}/output", "output", call_id=call_id))
    if run.status in RUNNING:
        while items and items[-1].kind != "output":
            items.pop()
    elif run.status not in ("completed", "requires_action", "incomplete"):
        while items and items[-1].kind != "call":
            items.pop()
    return items
