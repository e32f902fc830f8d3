"""What the routes do with messages of the bus and of storage queues, and when a timer ticks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aos.messaging.incoming import REPLAY, Incoming, replay_number
from aos.telemetry.bus import delivered
from runtime import BusMessage, StorageMessage, TimerTick

if TYPE_CHECKING:
    from aos.mcp.servers import McpServers
    from aos.system import AgentOperatingSystem


async def on_agent_message(message: BusMessage) -> None:
    """Events for agents, results of their tools, commands, and requests of other applications."""
    await _system(message).intake.receive(_incoming(message))


async def on_function_reply(message: StorageMessage) -> None:
    """Replies of Azure Functions that agents have as tools."""
    await _system(message).functions.receive(message.queue, message.body, message.message_id)


async def on_mcp_request(message: BusMessage) -> None:
    """Requests to MCP servers."""
    await _mcp(message).receive(_incoming(message))


async def on_mcp_command(message: BusMessage) -> None:
    """Commands to MCP servers, and requests that were put off."""
    await _mcp(message).receive(_incoming(message))


async def sweep(tick: TimerTick) -> None:
    """Resumes turns that a dead process left behind, and applies deadlines."""
    await _system(tick).sweep()


async def schedules(tick: TimerTick) -> None:
    """Has agents act by themselves whose schedules ticked."""
    await _system(tick).schedules.run()


async def purge(tick: TimerTick) -> None:
    """Removes what is not kept any longer, a piece at a time."""
    await _system(tick).retention.run()


async def reconcile(tick: TimerTick) -> None:
    """Applies what changed in the registries."""
    await _system(tick).reconcile()


# --- inside


def _system(carrier: BusMessage | StorageMessage | TimerTick) -> AgentOperatingSystem:
    """What the runtime's initializer built."""
    system: AgentOperatingSystem = carrier.app
    return system


def _incoming(message: BusMessage) -> Incoming:
    entity = message.entity.partition("/")[0]
    delivered(entity, message.enqueued_time)
    return Incoming(
        entity=entity,
        body=message.body,
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        reply_to_session_id=message.reply_to_session_id,
        session_id=message.session_id,
        replay=replay_number(message.application_properties.get(REPLAY)),
    )


def _mcp(message: BusMessage) -> McpServers:
    mcp = _system(message).mcp
    assert mcp is not None  # noqa: S101 - these routes are registered for the role `mcp` only
    return mcp
