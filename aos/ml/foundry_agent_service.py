"""A client of the Foundry Agent Service for one-off questions and for threads.

It speaks the current generation: agent versions, conversations and responses. `temperature` and `top_p` belong to an
agent's definition, the service refuses them with a message that names an agent (microsoft/agent-framework#2573);
`max_output_tokens` goes with each message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aos.config import Settings
from aos.errors import AosError, FoundryRefused, FoundryUnavailable, TransientError
from aos.foundry.clients import FoundryClients
from aos.foundry.values import whole
from aos.kernel.clock import Clock, SystemClock
from aos.ml.errors import InvalidModelRequest
from aos.ml.foundry_agents import Agent, AgentDefinition, FoundryAgents, service_tools
from aos.ml.foundry_config import FoundryAgentServiceConfig
from aos.ml.foundry_threads import FoundryThreads
from aos.ml.foundry_turns import FoundryTurns, Way
from aos.ml.foundry_types import FoundryResponse, ThreadInfo
from aos.ml.metrics import Metrics
from aos.ml.retries import Retries

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

__all__ = ["FoundryAgentServiceClient", "FoundryAgentServiceConfig", "FoundryResponse", "ThreadInfo"]

log = logging.getLogger("aos.ml")

LONGEST_MESSAGE = 1_000_000
LONGEST_PROMPT = 250_000
LONGEST_DOMAIN = 64
NOTING = 5.0
"""Seconds that an answer may be held up until the use of its thread is noted."""
INSTRUCTIONS = "You are an agent of a company. Answer truthfully and to the point; say so where you do not know."


class FoundryAgentServiceClient:
    """Sends messages to agents of a Foundry project; `async with` initializes and closes it.

    Args:
        config: Without it, `FoundryAgentServiceConfig.from_env()`.
        credential: An Entra identity, used when there is no API key; the caller closes it.
        app_name: Written into the metadata of agents and threads that are made.
    """

    def __init__(
        self,
        config: FoundryAgentServiceConfig | None = None,
        credential: AsyncTokenCredential | None = None,
        *,
        app_name: str = "aos",
        clock: Clock | None = None,
    ) -> None:
        self.config = config or FoundryAgentServiceConfig.from_env()
        self._credential = credential
        self._app_name = app_name
        self._clock = clock or SystemClock()
        self._metrics = Metrics()
        self._initialized = False
        self._clients: FoundryClients | None = None

    async def initialize(self) -> None:
        """Checks the settings and builds the SDK clients; asks nothing of the service.

        Raises:
            ModelSettingError: A setting is missing or wrong; the detail names it.
        """
        if self._initialized:
            return
        config = self.config
        config.validate(identity=self._credential is not None)
        if config.enable_entra_agent_id and not config.agent_id:
            log.warning("Agent ID not configured: agents are made as needed. FOUNDRY_AGENT_ID names an existing one.")
        # Nothing else of the app's settings matters here, and none of them may be the reason to fail.
        settings = Settings.model_construct(
            project_endpoint=config.project_endpoint, project_api_key=config.api_key or None
        )
        clients = FoundryClients(settings, self._credential)
        self._retries = Retries(config.max_retries, config.retry_delay, self._clock, self._metrics.retried)
        self._agents = FoundryAgents(clients, self._app_name, self._clock)
        self._threads = FoundryThreads(clients, self._app_name, self._clock)
        self._turns = FoundryTurns(
            clients,
            self._agents,
            self._threads,
            self._retries,
            app_name=self._app_name,
            max_tokens=config.max_tokens,
        )
        self._clients = clients
        self._initialized = True

    async def close(self) -> None:
        """Closes the SDK clients; the client may be initialized again."""
        self._initialized = False
        if self._clients is not None:
            await self._clients.close()
            self._clients = None

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def send_message(
        self,
        message: str,
        thread_id: str | None = None,
        domain: str | None = None,
        system_prompt: str | None = None,
        tools: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> FoundryResponse:
        """Sends a message and waits for its answer. What the service fails at is told by the response's `success`.

        Args:
            thread_id: Where to go on; without it a thread is begun, if stateful threads are enabled.
            domain: Answered by the deployment `{model}-{domain}` where the project has it, else by the base model,
                which is told the domain.
            system_prompt: Instructions instead of the general ones; an existing agent (`FOUNDRY_AGENT_ID`) keeps its
                own, and is told these at the beginning of a thread.
            tools: Names of `FOUNDRY_TOOLS`.
            timeout: Seconds instead of the configured ones.

        Raises:
            InvalidModelRequest: The message, domain or tools are not valid.
            ModelSettingError: A setting is missing or wrong.
        """
        try:
            return await self.ask(message, thread_id, domain, system_prompt, tools, timeout=timeout)
        except (FoundryUnavailable, FoundryRefused) as error:
            metadata: dict[str, Any] = {"error_code": error.code, "domain": domain}
            if isinstance(error, TransientError):
                metadata["retry_after"] = error.retry_after
            return FoundryResponse("", thread_id, metadata=metadata, success=False, error=error.detail)

    async def ask(
        self,
        message: str,
        thread_id: str | None = None,
        domain: str | None = None,
        system_prompt: str | None = None,
        tools: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> FoundryResponse:
        """As `send_message`, but what the service fails at is raised.

        Raises:
            FoundryUnavailable, FoundryRefused: From the service.
            InvalidModelRequest, ModelSettingError: As `send_message`.
        """
        await self.initialize()
        self._check(message, thread_id, domain, system_prompt, tools)
        seconds = self.config.timeout if timeout is None else timeout
        tokens = 0
        began = asyncio.get_running_loop().time()
        succeeded = False
        try:
            async with asyncio.timeout(seconds):
                until = self._clock.now() + seconds
                way = await self._retries.run(lambda: self._way(domain, system_prompt, tools), until=until)
                if thread_id is None and self.config.enable_stateful_threads:
                    thread_id = await self._retries.run(lambda: self._threads.create({}), until=until)
                response = await self._turns.ask(way, thread_id, whole(message), until)
            tokens = int(response.usage.get("total_tokens", 0))
            succeeded = True
        except TimeoutError as error:
            raise FoundryUnavailable(
                f"Foundry did not answer within {seconds:g} s: increase FOUNDRY_TIMEOUT, or check the network.",
                sent=True,
                code="timeout",
            ) from error
        finally:
            self._metrics.record(asyncio.get_running_loop().time() - began, succeeded=succeeded, tokens=tokens)
        if thread_id is not None:
            await self._note(thread_id, response)
        return response

    async def create_thread(self, metadata: Mapping[str, str] | None = None) -> str:
        """Begins a thread and returns its id.

        Args:
            metadata: Up to 13 pairs; keys have up to 64 characters, values up to 512.

        Raises:
            InvalidModelRequest: The metadata is too long, or stateful threads are disabled.
            FoundryUnavailable, FoundryRefused: From the service.
        """
        await self.initialize()
        self._require_threads()
        return await self._retries.run(lambda: self._threads.create(metadata or {}), until=self._until())

    async def get_thread_info(self, thread_id: str) -> ThreadInfo:
        """What the service knows of a thread, whichever process made it.

        Raises:
            ConversationGone: There is no such thread.
            FoundryUnavailable, FoundryRefused: From the service.
        """
        await self.initialize()
        return await self._retries.run(lambda: self._threads.info(thread_id), until=self._until())

    async def delete_thread(self, thread_id: str) -> bool:
        """Deletes a thread; False if there is none.

        Raises:
            FoundryUnavailable, FoundryRefused: From the service.
        """
        await self.initialize()
        return await self._retries.run(lambda: self._threads.delete(thread_id), until=self._until())

    async def health_check(self) -> bool:
        """Whether the service answers a request that needs the sign-in; the reason why not is logged.

        Raises:
            ModelSettingError: A setting is missing or wrong.
        """
        await self.initialize()
        try:
            async with asyncio.timeout(min(self.config.timeout, 10)):
                await self._agents.check()
        except (AosError, TimeoutError) as error:
            log.warning("Foundry Agent Service is unhealthy: %s", error)
            return False
        return True

    def get_metrics(self) -> dict[str, Any]:
        """Of this client: `total_requests`, `successful_requests`, `failed_requests`, `retries`, `total_tokens_used` as
        the service counted them, and `average_latency` in seconds."""
        return self._metrics.as_dict()

    async def _note(self, thread_id: str, response: FoundryResponse) -> None:
        try:
            async with asyncio.timeout(NOTING):
                await self._threads.touch(thread_id, response.agent_id or "")
        except (FoundryUnavailable, FoundryRefused, TimeoutError) as error:
            log.warning("the answer is there, but the use of thread %s could not be noted: %s", thread_id, error)

    async def _way(self, domain: str | None, system_prompt: str | None, tools: Sequence[str] | None) -> Way:
        config = self.config
        wanted = service_tools(tools or ())
        instructions = whole(system_prompt or INSTRUCTIONS)
        if config.agent_id and config.enable_entra_agent_id:
            name, _, version = config.agent_id.partition(":")
            agent = Agent(name, version or None)
            if wanted and (lacking := set(wanted) - set(await self._agents.tools_of(agent))):
                raise FoundryRefused(
                    f"Agent {name!r} lacks the tool {', '.join(sorted(lacking))}: add it, or unset FOUNDRY_AGENT_ID.",
                    code="tool_not_available",
                )
            said = [system_prompt] if system_prompt else []
            said += [_context(domain)] if domain else []
            metadata = {"domain": domain, "domain_deployment": False, "deployment": None, "agent": "existing"}
            return Way(agent, name, metadata, context="\n\n".join(said) or None)
        deployment = f"{config.model}-{domain}" if domain else config.model
        own = bool(domain) and await self._agents.has_deployment(deployment)
        if domain and not own:
            deployment = config.model
            instructions = f"{instructions}\n\n{_context(domain)}"
        definition = AgentDefinition(deployment, instructions, wanted, config.temperature, config.top_p)
        label = domain or "general"
        agent = await self._agents.ensure(definition, label)
        metadata = {"domain": domain, "domain_deployment": own, "deployment": deployment, "agent": "made"}
        return Way(agent, label, metadata, definition)

    def _check(
        self,
        message: str,
        thread_id: str | None,
        domain: str | None,
        system_prompt: str | None,
        tools: Sequence[str] | None,
    ) -> None:
        if not message.strip():
            raise InvalidModelRequest("message: empty.")
        if len(message) > LONGEST_MESSAGE:
            raise InvalidModelRequest(f"message: {len(message)} characters; at most {LONGEST_MESSAGE}.")
        if system_prompt is not None and len(system_prompt) > LONGEST_PROMPT:
            raise InvalidModelRequest(f"system_prompt: {len(system_prompt)} characters; at most {LONGEST_PROMPT}.")
        if domain is not None and not (0 < len(domain) <= LONGEST_DOMAIN and domain.isprintable()):
            raise InvalidModelRequest(f"domain: 1 to {LONGEST_DOMAIN} printable characters.")
        if thread_id is not None:
            self._require_threads()
        if tools and not self.config.enable_foundry_tools:
            raise InvalidModelRequest("tools: disabled by FOUNDRY_ENABLE_FOUNDRY_TOOLS.", code="tools_disabled")
        service_tools(tools or ())

    def _require_threads(self) -> None:
        if not self.config.enable_stateful_threads:
            raise InvalidModelRequest(
                "thread_id: threads are disabled by FOUNDRY_ENABLE_STATEFUL_THREADS.", code="threads_disabled"
            )

    def _until(self) -> float:
        return self._clock.now() + self.config.timeout


def _context(domain: str) -> str:
    return f"The questions are about this domain: {domain}."
