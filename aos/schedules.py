"""Perpetual agents act by themselves: each tick of a schedule becomes one event in the agent's conversation `main`.

Every process looks once a minute. The operation id of a tick is derived from agent, schedule and due time, so that any
number of processes, restarts and looks make one turn of it. Missed ticks are not made up for: at most the latest of
each schedule, and only if it was due within the last five minutes.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from pydantic import JsonValue

from aos.errors import AosError, TransientError
from aos.intake import PERPETUAL, derive_operation_id, event_text, fingerprint_of
from aos.kernel.clock import Clock, SystemClock
from aos.kernel.kernel import Kernel
from aos.kernel.ports import AgentBinding, ConversationStore
from aos.kernel.types import ConversationKey, Message
from aos.messaging.envelopes import AgentEvent
from aos.registry.agents import AgentEntry, AgentRegistry
from aos.registry.schedules import Schedule, schedules

log = logging.getLogger("aos.schedules")

AT_ONCE = 8
"""Ticks that are taken up at the same time."""
RECENT = 300.0
"""Seconds after which a tick that nobody took up is left out."""


class Directory(Protocol):
    """`aos.agents.directory.AgentDirectory`."""

    async def registry(self) -> AgentRegistry: ...

    async def bind(self, agent_id: str) -> AgentBinding: ...


class Schedules:
    """Turns ticks into accepted messages."""

    def __init__(
        self, kernel: Kernel, store: ConversationStore, directory: Directory, clock: Clock | None = None
    ) -> None:
        self._kernel = kernel
        self._store = store
        self._directory = directory
        self._clock = clock or SystemClock()
        self._taken: dict[tuple[str, str], float] = {}

    async def run(self) -> int:
        """Takes up the ticks that are due.

        One that cannot be taken up now, because a service is down or the agent is starting, is tried again with the
        next look, as long as it is recent.

        Returns:
            How many became turns.
        """
        registry = await self._directory.registry()
        now = self._clock.now()
        due = [
            (entry.agent_id, schedule, tick)
            for entry in registry.enabled
            for schedule in schedules(entry.metadata)
            if now - (tick := schedule.previous(now)) <= RECENT
        ]
        gate = asyncio.Semaphore(AT_ONCE)

        async def look(agent_id: str, schedule: Schedule, tick: float) -> bool:
            name = (agent_id, schedule.model_dump_json())
            if self._taken.get(name, 0.0) >= tick:
                return False
            async with gate:
                try:
                    taken = await self._take(agent_id, schedule, tick)
                except TransientError as error:
                    log.info("the tick of agent %s waits: %s", agent_id, error.detail)
                    return False
                except AosError as error:
                    log.warning("the tick of agent %s is left out: %s", agent_id, error.detail)
                    return False
            self._taken[name] = tick
            return taken

        results = await asyncio.gather(*(look(*each) for each in due))
        self._taken = {name: tick for name, tick in self._taken.items() if now - tick <= RECENT}
        return sum(results)

    async def _take(self, agent_id: str, schedule: Schedule, tick: float) -> bool:
        """Accepts a tick. False: it was accepted before, or another one of its kind still waits."""
        # One that is stopped or not ready gets no backlog of ticks.
        binding = await self._directory.bind(agent_id)
        key = ConversationKey(agent_id, PERPETUAL)
        due = datetime.fromtimestamp(tick, UTC).isoformat()
        operation_id = derive_operation_id("schedule", schedule.model_dump_json(), agent_id, due)
        payload: JsonValue = {"due": due} if schedule.payload is None else schedule.payload
        event = AgentEvent(agent_id=agent_id, event_type=schedule.event_type, payload=payload)
        fingerprint = fingerprint_of(agent_id, json.loads(schedule.model_dump_json()), due)
        if await self._kernel.known(operation_id, fingerprint) is not None:
            return False
        if any(_is_tick(message, schedule) for message in (await self._store.read(key)).inbox):
            log.info("agent %s has not come to its last tick yet: this one is left out", agent_id)
            return False
        now = self._clock.now()
        message = Message(
            operation_id, event_text(event), now, now + self._kernel.options.turn, event_type=schedule.event_type
        )
        deployment = binding.ref.deployment
        operation, new = await self._kernel.accept(key, message, fingerprint, fresh=False, deployment=deployment)
        if new:
            # Whoever receives the wake-up drives the turn: a timer must not wait for a model.
            await self._wake(operation.agent_id, operation_id)
        return new

    async def _wake(self, agent_id: str, operation_id: str) -> None:
        try:
            await self._kernel.wake(await self._kernel.operation(operation_id))
        except TransientError as error:
            log.warning("the sweep has to wake agent %s: %s", agent_id, error.detail)

    async def heartbeat(self, entry: AgentEntry) -> dict[str, str | None]:
        """When the agent last took in an event of its conversation `main`, and when it acts by itself next (UTC)."""
        snapshot = await self._store.read(ConversationKey(entry.agent_id, PERPETUAL))
        # Places in a conversation are times of acceptance, in microseconds.
        last = max([snapshot.state.last_seq, *(message.seq for message in snapshot.inbox)])
        return {
            "last_event_at": _time(last / 1e6) if last else None,
            "next_tick": _following(schedules(entry.metadata), self._clock.now()),
        }


def _is_tick(message: Message, schedule: Schedule) -> bool:
    return message.origin is None and message.reply_to is None and message.event_type == schedule.event_type


def _following(agreed: Sequence[Schedule], now: float) -> str | None:
    return _time(min(schedule.following(now) for schedule in agreed)) if agreed else None


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
