"""Foundry as the kernel's worlds have it: conversations, steps that take their time, and every way to fail."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aos.errors import ConversationGone, FoundryRefused, FoundryUnavailable, RequestRefused
from aos.kernel.ports import RemoteItem
from aos.kernel.rollover import ALREADY_CALLED, SUMMARY_REQUEST, message_of
from aos.kernel.types import AgentRef, FunctionCall, ModelReply, ToolOutput, Usage

Fault = Literal["refuse", "rate limit", "never sent", "lost request", "lost answer", "late answer", "too long", "bug"]
Summaries = Literal["text", "tools", "nothing", "refused", "late"]


@dataclass(slots=True)
class Remote:
    """A conversation as Foundry keeps it."""

    items: list[RemoteItem] = field(default_factory=list)
    locked: bool = False

    def add(self, kind: str, **content: str) -> RemoteItem:
        item = RemoteItem(f"item_{id(self)}_{len(self.items)}", kind, **content)
        self.items.append(item)
        return item

    @property
    def unanswered(self) -> set[str]:
        calls = {item.call_id for item in self.items if item.kind == "call"}
        return calls - {item.call_id for item in self.items if item.kind == "output"}

    @property
    def tokens(self) -> int:
        return sum(1 + (len(item.text) + len(item.arguments)) // 4 for item in self.items)


class Foundry:
    """The service. The input appears when a step starts, the output when it completes, whoever still listens.

    The model reads its orders in the last user message: `2,1: text` makes two calls, then one, then answers. Calls of
    a text with `approve` in it need an approval (all but the first of a step, if `Agents.mixed`). What was carried over
    from another conversation is no order; a model that is told of calls made for the message makes none again. The
    calls of `2: ask cfo/text` are two questions to agent `cfo`.

    Attributes:
        window: Tokens that a conversation may hold.
        counted: Whether usage says how long the conversation is.
        summaries: What it answers when it is asked for one.
    """

    def __init__(self) -> None:
        self.remotes: dict[str, Remote] = {}
        self.opened = 0
        self.down = False
        self.latency = 0.5
        self.pace = 0.1
        self.late = 200.0
        self.faults: list[Fault] = []
        self.steps: Counter[tuple[str, int]] = Counter()
        self.requests = 0
        self.asked = 0
        self.last_agent: AgentRef | None = None
        self.running: set[asyncio.Task[ModelReply]] = set()
        self.window = 1_000_000
        self.counted = False
        self.summaries: Summaries = "text"
        self.summed_up = 0
        self.truncated = False

    def forget(self) -> None:
        self.remotes.clear()

    def available(self) -> None:
        self.asked += 1
        if self.down:
            raise FoundryUnavailable("Foundry is down.", sent=False)

    def open(self) -> str:
        self.available()
        self.opened += 1
        self.remotes[f"conv_{self.opened}"] = Remote()
        return f"conv_{self.opened}"

    def items_after(self, remote_id: str, anchor: str | None) -> list[RemoteItem]:
        self.available()
        items = self._remote(remote_id).items
        ids = [item.item_id for item in items]
        return items[ids.index(anchor) + 1 :] if anchor is not None else list(items)

    async def respond(
        self,
        agent: AgentRef,
        remote_id: str,
        outputs: Sequence[ToolOutput],
        text: str | None,
        timeout: float,
        *,
        on_text: Callable[[str], None] | None = None,
    ) -> ModelReply:
        self.available()
        self.requests += 1
        fault = self.faults.pop(0) if self.faults else None
        match fault:
            case "refuse":
                raise FoundryRefused("The content filter refused the message.", code="content_filter")
            case "rate limit":
                raise FoundryUnavailable("Too many requests.", sent=False, retry_after=8.0, code="rate_limited")
            case "bug":
                raise RuntimeError("a bug in the adapter")
            case "never sent":
                raise FoundryUnavailable("No connection.", sent=False)
            case "lost request":
                raise FoundryUnavailable("The connection broke.", sent=True)
        remote = self._remote(remote_id)
        if remote.locked:
            raise FoundryUnavailable("A step is running.", sent=True, code="conversation_locked")
        said = sum(1 + len(output.output) // 4 for output in outputs) + len(text or "") // 4
        if fault == "too long" or remote.tokens + said > self.window:
            raise FoundryRefused("The input exceeds the context window.", code="context_length_exceeded")
        summary = text == SUMMARY_REQUEST
        if summary and self.summaries == "refused":
            raise FoundryRefused("The content filter refused the message.", code="content_filter")
        self.last_agent = agent
        self._take(remote, outputs, text)
        late = fault == "late answer" or (summary and self.summaries == "late")
        step = asyncio.create_task(self._step(remote, self.late if late else self.latency, on_text))
        self.running.add(step)
        step.add_done_callback(self.running.discard)
        if fault == "lost answer":
            await asyncio.wait({step})
            raise FoundryUnavailable("The connection broke.", sent=True)
        done, _ = await asyncio.wait({step}, timeout=timeout)
        if not done:
            raise FoundryUnavailable("No answer in time.", sent=True)
        return step.result()

    def _remote(self, remote_id: str) -> Remote:
        if remote_id not in self.remotes:
            raise ConversationGone(f"No conversation {remote_id}.")
        return self.remotes[remote_id]

    def _take(self, remote: Remote, outputs: Sequence[ToolOutput], text: str | None) -> None:
        given = [output.call_id for output in outputs]
        if not set(given) <= remote.unanswered or len(set(given)) != len(given):
            raise RequestRefused(f"No tool call found for the outputs {given}.")
        if remote.unanswered - set(given):
            raise RequestRefused(f"No tool output found for {remote.unanswered - set(given)}.")
        if not given and text is None and (not remote.items or remote.items[-1].kind in ("text", "call")):
            raise RequestRefused("Nothing to answer.")
        for output in outputs:
            remote.add("output", call_id=output.call_id, text=output.output)
        if text is not None:
            remote.add("user", text=text)

    async def _step(self, remote: Remote, latency: float, on_text: Callable[[str], None] | None) -> ModelReply:
        remote.locked = True
        await asyncio.sleep(latency)
        asked = max(index for index, item in enumerate(remote.items) if item.kind == "user")
        given = remote.items[asked].text
        orders = message_of(given)
        news = remote.items[asked + 1 :]
        number = 1 + len({item.call_id.split(".")[1] for item in news if item.kind == "call"})
        plan = [int(part) for part in orders.partition(":")[0].split(",") if part.isdigit()]
        if orders == SUMMARY_REQUEST:
            self.summed_up += 1
            plan = [1] if self.summaries == "tools" else []
        else:
            if ALREADY_CALLED in given:
                number = len(plan) + 1
            self.steps[orders, number] += 1
        before = remote.tokens
        calls: list[FunctionCall] = []
        if number <= len(plan):
            name = "unknown" if "refused" in orders else "read"
            for index in range(plan[number - 1]):
                call = FunctionCall(
                    f"{self.opened}_{len(remote.items)}.{number}.{index}", name, f'{{"for": "{orders}"}}'
                )
                remote.add("call", call_id=call.call_id, name=call.name, arguments=call.arguments)
                calls.append(call)
            text = ""
        else:
            heard = [item.text for item in news if item.kind == "output"]
            text = f"answer to {orders}: {' '.join(heard)}"
            if orders == SUMMARY_REQUEST:
                text = "" if self.summaries == "nothing" else f"summary {self.summed_up}"
            if on_text is not None:
                for piece in re.findall(r"\S+\s*", text):
                    on_text(piece)
                    await asyncio.sleep(self.pace)
            remote.add("text", text=text)
        remote.locked = False
        usage = Usage(before, remote.tokens - before, remote.tokens) if self.counted else Usage(1, 1, 2)
        return ModelReply(text, tuple(calls), usage, "llama", remote.items[-1].item_id, truncated=self.truncated)
