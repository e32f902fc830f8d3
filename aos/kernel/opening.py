"""Makes an accepted message a turn: its agent is bound, and the Foundry conversation is there and takes input."""

from __future__ import annotations

import logging

from aos.errors import AgentStopped, AosError, ConversationGone, TransientError
from aos.kernel.breaker import Breakers
from aos.kernel.clock import Clock
from aos.kernel.events import MessageRefused, PutOff, Settled, TurnStarted
from aos.kernel.hold import Hold, failure_of, unforeseen
from aos.kernel.options import KernelOptions
from aos.kernel.points import reached
from aos.kernel.ports import AgentDirectory, FoundryPort
from aos.kernel.records import replace
from aos.kernel.recovery import settle
from aos.kernel.types import Message

log = logging.getLogger("aos.kernel")


class Opening:
    """What comes before the first model step of a turn."""

    def __init__(
        self, foundry: FoundryPort, agents: AgentDirectory, breakers: Breakers, clock: Clock, options: KernelOptions
    ) -> None:
        self._foundry = foundry
        self._agents = agents
        self._breakers = breakers
        self._clock = clock
        self._options = options

    async def begin(self, hold: Hold, message: Message) -> TurnStarted | MessageRefused | PutOff:
        """How the turn of the next message begins, or why it does not.

        Raises:
            AgentStopped: The message waits, however long.
        """
        try:
            binding = await self._agents.bind(hold.key.agent_id)
            if hold.state.unsettled or hold.state.remote_id is None:
                with self._breakers.of(binding.ref.deployment).guard():
                    await self._open(hold)
        except AgentStopped as error:
            if message.parent is None:
                raise
            # The agent that asks does not wait for an operator.
            return MessageRefused(self._clock.now(), message, failure_of(error))
        except TransientError as error:
            return self._not_yet(hold, message, error)
        except AosError as error:
            return MessageRefused(self._clock.now(), message, failure_of(error))
        except Exception as error:
            return self._not_yet(hold, message, unforeseen(error, f"Binding agent {hold.key.agent_id}"))
        if message.accepted_at < binding.running_since:
            message = replace(message, deadline=max(message.deadline, binding.running_since + self._options.turn))
        return TurnStarted(self._clock.now(), message, binding.ref, binding.limits)

    def _not_yet(self, hold: Hold, message: Message, error: TransientError) -> MessageRefused | PutOff:
        if self._clock.now() < message.deadline:
            log.warning("agent %s cannot take a message yet: %s", hold.key.agent_id, error.detail)
            return hold.put_off(error, self._clock.now(), message.deadline)
        return MessageRefused(self._clock.now(), message, failure_of(error))

    async def _open(self, hold: Hold) -> None:
        """Sees to it that there is a Foundry conversation in which a turn can begin."""
        if hold.state.unsettled:
            await self._settle(hold)
        if hold.state.remote_id is None:
            reached("before-open")
            remote_id = await self._foundry.open_conversation(hold.key)
            reached("after-open")
            hold.state = replace(hold.state, remote_id=remote_id)

    async def _settle(self, hold: Hold) -> None:
        """Looks up what the last turn left in the Foundry conversation, so that the next one is not refused for it."""
        state = hold.state
        if state.remote_id is None:
            hold.apply(Settled(None, ()))
            return
        try:
            items = await self._foundry.items_after(state.remote_id, state.anchor)
        except ConversationGone as error:
            log.warning("conversation %s/%s: %s", *hold.key, error.detail)
            hold.state = replace(state, remote_id=error.successor)
            hold.apply(Settled(None, ()))
            return
        hold.apply(settle(items, state.anchor, state.orphans))
