"""Going on where a dead process stopped: what the Foundry conversation already holds is not sent or asked again."""

from __future__ import annotations

from collections.abc import Sequence

from aos.kernel.calls import ABANDONED
from aos.kernel.events import Settled
from aos.kernel.ports import RemoteItem
from aos.kernel.types import FunctionCall, ModelReply, ToolOutput, Usage


def missing_input(
    items: Sequence[RemoteItem], outputs: tuple[ToolOutput, ...], text: str | None, model: str
) -> tuple[ModelReply | None, tuple[ToolOutput, ...], str | None]:
    """Compares what a model step was to be given with what is in the conversation.

    Args:
        items: What the conversation holds after the last item that we knew, oldest first.
        outputs, text: The input of the step.
        model: Named as the author of an adopted answer.

    Returns:
        The answer, if the model gave one already; else None and the input that is still to be sent, with an answer to
        calls of a step that nobody waited for.
    """
    owed = _owed(items, outputs)
    arrived = owed.keys().isdisjoint(output.call_id for output in outputs)
    asked = text is None or any(item.kind == "user" and item.text == text for item in items)
    news: list[RemoteItem] = []
    for item in items:
        if item.kind in ("user", "output"):
            news.clear()
        else:
            news.append(item)
    if news and asked and arrived:
        calls = tuple(FunctionCall(item.call_id, item.name, item.arguments) for item in news if item.kind == "call")
        said = "".join(item.text for item in news if item.kind == "text")
        return ModelReply(said, calls, Usage(adopted=1), model, news[-1].item_id), (), None
    return None, tuple(owed.values()), None if asked else text


def settle(items: Sequence[RemoteItem], anchor: str | None, orphans: tuple[ToolOutput, ...]) -> Settled:
    """Finds out what a model step that ended unknown left behind: input that did arrive, calls that nobody heard of.

    Args:
        items: What the conversation holds after `anchor`, the last item that we knew, oldest first.
        orphans: Answers that may have arrived.
    """
    return Settled(items[-1].item_id if items else anchor, tuple(_owed(items, orphans).values()))


def _owed(items: Sequence[RemoteItem], outputs: tuple[ToolOutput, ...]) -> dict[str, ToolOutput]:
    """Outputs that the conversation does not have, and one for each of its calls that nobody answers otherwise."""
    answered = {item.call_id for item in items if item.kind == "output"}
    owed = {output.call_id: output for output in outputs if output.call_id not in answered}
    for item in items:
        if item.kind == "call" and item.call_id not in answered:
            owed.setdefault(item.call_id, ToolOutput(item.call_id, ABANDONED))
    return owed
