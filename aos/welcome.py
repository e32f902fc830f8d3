"""What `aos serve` prints once an agent can answer: the agents, and a line to try one with."""

from __future__ import annotations

import asyncio
import json
import shlex
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from aos.config import Settings
from aos.errors import AosError
from aos.registry.agents import AgentEntry

if TYPE_CHECKING:
    from aos.system import AgentOperatingSystem
    from runtime import AsgiRuntime

LOOK_EVERY = 0.25
EXAMPLE = "example_message"
"""Key of an agent's metadata that holds something worth asking it."""


async def welcome(host: AsgiRuntime, settings: Settings) -> None:
    """Waits until the first agent is ready, then prints. Ends silently when the app does not serve agents."""
    if "agents" not in settings.roles:
        return
    entry = await _first_ready(host)
    if entry is None:
        return
    system: AgentOperatingSystem = host.app_instance  # type: ignore[assignment]  # what `serve` initializes
    registry = await system.directory.registry()
    table = Table(title="Agents", title_justify="left")
    for column in ("agent", "deployment", "tools", "purpose"):
        table.add_column(column, overflow="fold")
    for agent in registry.entries.values():
        deployment = f"{settings.model_deployment}-{agent.domain_knowledge.domain}"
        table.add_row(agent.agent_id, deployment, str(len(agent.distinct_tools)), agent.purpose)
    # What a registry says is shown as it is, also where it looks like markup.
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print("Try:", style="bold")
    # One line to paste, whatever the width of the terminal.
    console.print(curl(entry, settings, host.port or settings.port), soft_wrap=True, highlight=False)


def curl(entry: AgentEntry, settings: Settings, port: int) -> str:
    """The command line that asks an agent its example question."""
    body = json.dumps({"message": entry.metadata.get(EXAMPLE) or "What is your purpose?"}, ensure_ascii=False)
    parts = ["curl", "-s", f"http://{settings.host}:{port}/api/agents/{entry.agent_id}"]
    parts += ["-H", "content-type: application/json", "-d", body]
    line = shlex.join(parts)
    return f'{line} -H "x-functions-key: $AOS_FUNCTION_KEY"' if settings.function_key else line


async def _first_ready(host: AsgiRuntime) -> AgentEntry | None:
    while True:
        await asyncio.sleep(LOOK_EVERY)
        system: AgentOperatingSystem | None = host.app_instance  # type: ignore[assignment]  # see `welcome`
        if system is None or host.port is None:
            continue
        try:
            enabled = (await system.directory.registry()).enabled
            asked = [entry for entry in enabled if EXAMPLE in entry.metadata] or list(enabled)
            if not asked:
                return None
            await system.directory.bind(asked[0].agent_id)
            return asked[0]
        except AosError:
            # Not ready yet; the log and `GET /api/health` say why.
            continue
