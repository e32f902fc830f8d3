"""A model step: asked once, tried again while Foundry is unavailable, adopted where Foundry has the answer already."""

from __future__ import annotations

import logging

from aos.errors import (
    AgentGone,
    AosError,
    Conflict,
    ConversationGone,
    FoundryRefused,
    FoundryUnavailable,
    RequestRefused,
    TransientError,
)
from aos.kernel.backoff import back_off
from aos.kernel.breaker import BUSY, Breakers
from aos.kernel.clock import Clock
from aos.kernel.events import ConversationLost, Event, ModelAnswered, ModelFailed, PlannedCall, RolledOver
from aos.kernel.hold import Hold, failure_of, unforeseen
from aos.kernel.observing import Observer
from aos.kernel.options import KernelOptions
from aos.kernel.points import reached
from aos.kernel.ports import AgentDirectory, FoundryPort
from aos.kernel.progress import Progress
from aos.kernel.recovery import missing_input
from aos.kernel.rollover import TOO_LONG, RollingOver, due, input_text, summary_in
from aos.kernel.types import ModelReply, ToolOutput, Turn

log = logging.getLogger("aos.kernel")


class Asking:
    """Asks the model for the current step of a turn."""

    def __init__(
        self,
        foundry: FoundryPort,
        agents: AgentDirectory,
        breakers: Breakers,
        progress: Progress,
        clock: Clock,
        options: KernelOptions,
        observer: Observer,
    ) -> None:
        self._foundry = foundry
        self._agents = agents
        self._breakers = breakers
        self._progress = progress
        self._clock = clock
        self._options = options
        self._observer = observer
        self._rolling = RollingOver(foundry, clock, options.model_timeout, observer)

    async def ask(self, hold: Hold) -> Event:
        """One model step, tried while Foundry is unavailable and patience lasts."""
        turn, recovering = hold.state.turn, hold.recovering
        assert turn is not None  # noqa: S101 - the driver asks only in phase `model`
        hold.recovering = False
        gives_up = self._clock.now() + self._options.patience
        attempt = 0
        while True:
            try:
                with self._breakers.of(turn.agent.deployment).guard():
                    return await self._model_step(hold, recovering)
            except TransientError as error:
                recovering = recovering or not isinstance(error, FoundryUnavailable) or error.sent
                delay = back_off(attempt, error.retry_after, first=0.1)
                attempt += 1
                if self._clock.now() + delay < min(gives_up, turn.deadline):
                    await self._clock.sleep(delay)
                    continue
                log.warning("model step of %s put off: %s", turn.message.operation_id, error.detail)
                return hold.put_off(error, self._clock.now(), turn.deadline)
            except Conflict:
                raise
            except AgentGone as error:
                await self._agents.forget(hold.key.agent_id)
                return ModelFailed(self._clock.now(), turn.step, failure_of(error))
            except AosError as error:
                return ModelFailed(self._clock.now(), turn.step, failure_of(error))
            except Exception as error:
                # What the step did is unknown; the turn's deadline ends an error that stays.
                wrong = unforeseen(error, f"Model step of {turn.message.operation_id}")
                return hold.put_off(wrong, self._clock.now(), turn.deadline)

    async def _model_step(self, hold: Hold, recovering: bool) -> Event:
        turn = hold.state.turn
        assert turn is not None  # noqa: S101 - see `ask`
        try:
            reply = await self._reply(hold, turn, recovering)
        except ConversationGone as error:
            if hold.reopened:
                raise
            hold.reopened = True
            log.warning("conversation %s/%s: %s", *hold.key, error.detail)
            successor = error.successor or await self._foundry.open_conversation(hold.key)
            return ConversationLost(self._clock.now(), turn.step, successor)
        hold.reopened = False
        if isinstance(reply, RolledOver):
            reached("after-roll-over")
            return reply
        planned: tuple[PlannedCall, ...] = ()
        if reply.calls:
            binding = await self._agents.bound_to(hold.key.agent_id, turn.agent)
            planned = tuple(binding.plan(call) for call in reply.calls)
        return ModelAnswered(self._clock.now(), turn.step, reply, planned)

    async def _reply(self, hold: Hold, turn: Turn, recovering: bool) -> ModelReply | RolledOver:
        remote_id, outputs, text = hold.state.remote_id, turn.outputs, input_text(hold.state)
        assert remote_id is not None  # noqa: S101 - opened before the turn started
        if recovering:
            items = await self._foundry.items_after(remote_id, hold.state.anchor)
            found, outputs, text = missing_input(items, outputs, text, turn.model or turn.agent.deployment)
            # What was seen may be the step of whoever has the conversation now.
            hold.require(self._clock.now())
            if (summary := summary_in(items)) is not None:
                return await self._rolling.roll_over(hold.state, outputs, summary)
            if found is not None:
                reached("after-adoption")
                return found
        hold.require(self._clock.now())
        if due(hold.state, self._options.context_tokens):
            return await self._rolling.roll_over(hold.state, outputs)
        timeout = max(1.0, min(self._options.model_timeout, turn.deadline - self._clock.now()))
        on_text = self._progress.on_text(turn.message.operation_id)
        reached("before-model-step")
        try:
            with self._observer.model_step(hold.key, turn, text, outputs) as answered:
                reply = await self._foundry.respond(turn.agent, remote_id, outputs, text, timeout, on_text=on_text)
                answered(reply)
        except FoundryRefused as error:
            if error.code not in TOO_LONG or turn.rolled_over:
                if isinstance(error, RequestRefused) and await self._overtaken(hold, remote_id, outputs, text):
                    told = "Another step ended in the Foundry conversation meanwhile."
                    raise FoundryUnavailable(told, sent=True, code=BUSY) from error
                raise
            log.info("conversation %s/%s has no room left: %s", *hold.key, error.detail)
            return await self._rolling.roll_over(hold.state, outputs)
        reached("after-model-step")
        return reply

    async def _overtaken(self, hold: Hold, remote_id: str, outputs: tuple[ToolOutput, ...], text: str | None) -> bool:
        """Whether calls, or an answer, came since this input was put together."""
        try:
            items = await self._foundry.items_after(remote_id, hold.state.anchor)
        except ConversationGone:
            raise
        except FoundryRefused as error:
            log.warning("conversation %s/%s cannot be read: %s", *hold.key, error.detail)
            return False
        return missing_input(items, outputs, text, "") != (None, outputs, text)
