"""A model step: asked once, tried again while Foundry is unavailable, adopted where Foundry has the answer already."""

from __future__ import annotations

import logging

from aos.errors import AgentGone, AosError, ConversationGone, FoundryUnavailable, TransientError
from aos.kernel.backoff import back_off
from aos.kernel.breaker import Breakers
from aos.kernel.clock import Clock
from aos.kernel.events import ConversationLost, Event, ModelAnswered, ModelFailed, PlannedCall
from aos.kernel.hold import Hold, failure_of
from aos.kernel.options import KernelOptions
from aos.kernel.points import reached
from aos.kernel.ports import AgentDirectory, FoundryPort
from aos.kernel.progress import Progress
from aos.kernel.recovery import missing_input
from aos.kernel.types import ModelReply

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
    ) -> None:
        self._foundry = foundry
        self._agents = agents
        self._breakers = breakers
        self._progress = progress
        self._clock = clock
        self._options = options

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
                return hold.put_off(error, self._clock.now())
            except AgentGone as error:
                await self._agents.forget(hold.key.agent_id)
                return ModelFailed(self._clock.now(), turn.step, failure_of(error))
            except AosError as error:
                return ModelFailed(self._clock.now(), turn.step, failure_of(error))

    async def _model_step(self, hold: Hold, recovering: bool) -> Event:
        turn, remote_id = hold.state.turn, hold.state.remote_id
        assert turn is not None  # noqa: S101 - see `ask`
        assert remote_id is not None  # noqa: S101 - opened before the turn started
        outputs, text = turn.outputs, turn.message.text if turn.step == 1 else None
        reply: ModelReply | None = None
        try:
            if recovering:
                items = await self._foundry.items_after(remote_id, hold.state.anchor)
                reply, outputs, text = missing_input(items, outputs, text, turn.model or turn.agent.deployment)
                if reply is not None:
                    reached("after-adoption")
            if reply is None:
                timeout = max(1.0, min(self._options.model_timeout, turn.deadline - self._clock.now()))
                on_text = self._progress.on_text(turn.message.operation_id)
                reached("before-model-step")
                reply = await self._foundry.respond(turn.agent, remote_id, outputs, text, timeout, on_text=on_text)
                reached("after-model-step")
        except ConversationGone as error:
            if hold.reopened:
                raise
            hold.reopened = True
            log.warning("conversation %s/%s: %s", *hold.key, error.detail)
            successor = error.successor or await self._foundry.open_conversation(hold.key)
            return ConversationLost(self._clock.now(), turn.step, successor)
        hold.reopened = False
        planned: tuple[PlannedCall, ...] = ()
        if reply.calls:
            binding = await self._agents.bound_to(hold.key.agent_id, turn.agent)
            planned = tuple(binding.plan(call) for call in reply.calls)
        return ModelAnswered(self._clock.now(), turn.step, reply, planned)
