"""Where an agent works that no app serves: the kernel with a model runtime and stores, but without registry and bus.

Built from the settings, or on the parts of a running system. Such an agent has no MCP tools, unless it is one of the
running system's own.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from aos.agents.definition import AgentDefinition
from aos.agents.directory import AgentDirectory, BoundAgent
from aos.agents.runtimes import open_runtime
from aos.config import Settings
from aos.errors import AosError, UnknownAgent
from aos.identity import identity
from aos.kernel.clock import SystemClock
from aos.kernel.kernel import Kernel
from aos.kernel.ports import ConversationStore, FoundryPort
from aos.kernel.types import AgentRef, ConversationKey, Message, Operation, Outgoing
from aos.mcp.functions import convert_mcp_tools_to_function_tools
from aos.storage.account import StorageAccount
from aos.storage.conversations import TableConversations
from aos.storage.memory import MemoryConversations
from aos.storage.payloads import Payloads

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

log = logging.getLogger("aos.agents")


class RunningSystem(Protocol):
    """The parts of `aos.system.AgentOperatingSystem` that an agent uses."""

    @property
    def settings(self) -> Settings: ...

    @property
    def kernel(self) -> Kernel: ...

    @property
    def directory(self) -> AgentDirectory: ...

    @property
    def store(self) -> ConversationStore: ...

    @property
    def foundry(self) -> FoundryPort: ...


class Workplace:
    """Takes turns for one agent.

    Args:
        system: A running system. If its registry has the agent, its kernel takes the turns, with the tools and the
            definition of the registry; else a kernel of our own does, on the system's stores and model runtime.
    """

    def __init__(self, agent: AgentDefinition, settings: Settings, system: RunningSystem | None = None) -> None:
        self._agent = agent
        self.settings = settings
        self._system = system
        self._account: StorageAccount | None = None
        self._credential: AsyncTokenCredential | None = None
        self._clock = SystemClock()
        self._foundry: FoundryPort | None = None
        self._kernel: Kernel | None = None
        self._own_kernel = True
        self._outlet = _Later()

    async def open(self) -> BoundAgent:
        """Makes the agent ready.

        Raises:
            TransientError: It is not, for now.
            FoundryRefused: It cannot be.
        """
        if self._system is not None:
            if await self._registered(self._system):
                self._kernel, self._own_kernel = self._system.kernel, False
                return await self._system.directory.bind(self._agent.agent_id)
            foundry, store = self._system.foundry, self._system.store
        else:
            foundry, store = self._build()
        here = _Here(self._agent, foundry, self.settings.model_deployment)
        bound = await here.bind(self._agent.agent_id)
        self._kernel = Kernel(store=store, foundry=foundry, agents=here, outlet=self._outlet)
        self._outlet.kernel = self._kernel
        return bound

    async def turn(self, conversation_id: str, text: str, timeout: float) -> Operation:
        """One turn, as far as it gets within `timeout` seconds."""
        kernel = self._kernel
        assert kernel is not None  # noqa: S101 - the agent opens before it takes turns
        now = self._clock.now()
        message = Message(f"op_{uuid.uuid4().hex[:26]}", text, now, now + kernel.options.turn)
        key = ConversationKey(self._agent.agent_id, conversation_id)
        operation, _ = await kernel.accept(key, message, message.operation_id, fresh=False)
        kernel.start(operation)
        return await kernel.wait(operation, timeout)

    async def close(self, grace: float) -> None:
        await self._outlet.close()
        if self._kernel is not None and self._own_kernel:
            await self._kernel.close(grace)
        if self._foundry is not None:
            await self._foundry.close()
        if self._account is not None:
            await self._account.close()
        if self._credential is not None:
            await self._credential.close()

    async def _registered(self, system: RunningSystem) -> bool:
        try:
            await system.directory.entry(self._agent.agent_id)
        except UnknownAgent:
            return False
        return True

    def _build(self) -> tuple[FoundryPort, ConversationStore]:
        settings = self.settings
        by_key = settings.project_api_key or not settings.use_foundry
        if not (by_key and (settings.storage or not settings.storage_configured)):
            self._credential = identity(settings)
        store: ConversationStore = MemoryConversations()
        if settings.storage_configured:
            self._account = StorageAccount(settings, self._credential)
            store = TableConversations(self._account, Payloads(self._account))
        self._foundry = open_runtime(settings, self._account, self._credential, self._clock).port
        return self._foundry, store


class _Here:
    """An `AgentDirectory` of one agent, without tools."""

    def __init__(self, agent: AgentDefinition, foundry: FoundryPort, base: str) -> None:
        self._agent = agent
        self._foundry = foundry
        self._base = base
        self._bound: BoundAgent | None = None

    async def bind(self, agent_id: str) -> BoundAgent:
        if self._bound is None:
            tools = convert_mcp_tools_to_function_tools([])
            ref = await self._foundry.ensure_agent(self._agent.spec(self._base, tools.definitions))
            self._bound = BoundAgent(self._agent, ref, tools)
        return self._bound

    async def bound_to(self, agent_id: str, ref: AgentRef) -> BoundAgent:
        return await self.bind(agent_id)

    async def forget(self, agent_id: str) -> None:
        self._bound = None
        await self._foundry.forget_agent(agent_id)


class _Later:
    """An `Outlet` within the process: there are no tools to call, nobody to reply to, but turns to go on with."""

    kernel: Kernel | None = None

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        raise UnknownAgent(f"Agent {key.agent_id!r} runs outside an app: it has no bus to send to.")

    async def wake(self, key: ConversationKey, delay: float) -> None:
        task = asyncio.create_task(self._drive(key, delay), name=f"go on with {key.agent_id}/{key.conversation_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drive(self, key: ConversationKey, delay: float) -> None:
        await asyncio.sleep(delay)
        assert self.kernel is not None  # noqa: S101 - set before the first turn
        try:
            await self.kernel.drive(key, resume=True)
        except AosError as error:
            log.warning("%s/%s stopped: %s", *key, error.detail)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
