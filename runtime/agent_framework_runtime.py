"""AgentFrameworkRuntime: agents of the Microsoft Agent Framework, made from configuration and kept by name.

Needs the packages `agent-framework-core` and `agent-framework-openai`; they are imported when the first agent is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from runtime.config_loader import RuntimeConfig, RuntimeConfigError
from runtime.outgoing import Outgoing

if TYPE_CHECKING:
    from agent_framework import Agent, ChatContext, ChatMiddleware, FunctionTool

DEFAULTS = "agent_framework"
"""Key of `RuntimeConfig.custom_config` with the settings of agents that do not name their own."""


class AgentConfig(BaseModel):
    """What an agent is.

    Attributes:
        model: Name of the model that the endpoint serves.
        base_url: An OpenAI-compatible endpoint, such as `http://127.0.0.1:8000/v1`.
        api_key: Of the endpoint; many local servers want none.
        tools: Functions that the agent's model may call, or Agent Framework's `FunctionTool`s; they run in this
            process.
        timeout: Seconds of one model call.
        max_retries: Of one model call; by default what the runtime's own configuration says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    model: Annotated[str, Field(min_length=1)]
    base_url: Annotated[str, Field(pattern=r"^https?://.+")]
    api_key: SecretStr = SecretStr("none")
    instructions: str | None = None
    description: str | None = None
    tools: Sequence[Any] = ()
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    timeout: Annotated[float, Field(gt=0, le=3600)] = 120.0
    max_retries: Annotated[int | None, Field(ge=0, le=100)] = None


class AgentExists(ValueError):
    """An agent has this name already; remove it first, or take another name."""


class AgentFrameworkRuntime:
    """Makes agents and closes their connections.

    Args:
        config: `custom_config["agent_framework"]` holds settings for agents that do not name their own, such as
            `{"base_url": "http://127.0.0.1:8000/v1", "model": "llama-3.3-70b"}`; `max_retries` and `retry_enabled`
            bound the retries of a model call, `circuit_breaker_enabled` leaves a model alone that keeps failing:
            `CircuitOpen` is raised then.
        outgoing: Shares circuit breakers with other calls.

    `agent_framework_enabled` is not looked at: whoever makes this object wants it.
    """

    def __init__(self, config: RuntimeConfig, outgoing: Outgoing | None = None) -> None:
        self.config = config
        self.outgoing = outgoing or Outgoing(config)
        self._agents: dict[str, Agent[Any]] = {}
        self._stacks: dict[str, AsyncExitStack] = {}
        self._lock = asyncio.Lock()

    async def create_agent(
        self, name: str, config: Mapping[str, object] | None = None, *, tools: Sequence[Callable[..., Any]] = ()
    ) -> Agent[Any]:
        """Makes an agent and keeps it under its name.

        Args:
            config: See `AgentConfig`.
            tools: Further functions that its model may call.

        Raises:
            RuntimeConfigError: A setting is missing or wrong; names it.
            AgentExists: The name is taken.
        """
        settings = self._settings(name, config or {})
        async with self._lock:
            if name in self._agents:
                raise AgentExists(f"There is an agent {name!r} already: remove it first, or take another name.")
            async with AsyncExitStack() as stack:
                agent = await self._make(name, settings, [*settings.tools, *tools], stack)
                self._stacks[name] = stack.pop_all()
            self._agents[name] = agent
        return agent

    def get_agent(self, name: str) -> Agent[Any] | None:
        """The agent of this name, or None."""
        return self._agents.get(name)

    def list_agents(self) -> list[str]:
        """The names of all agents, in the order in which they were made."""
        return list(self._agents)

    async def remove_agent(self, name: str) -> bool:
        """Closes the agent's connections and forgets it. False: there was none."""
        async with self._lock:
            if self._agents.pop(name, None) is None:
                return False
            await self._stacks.pop(name).aclose()
        return True

    async def close(self) -> None:
        """Removes all agents."""
        for name in self.list_agents():
            await self.remove_agent(name)

    async def __aenter__(self) -> AgentFrameworkRuntime:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _settings(self, name: str, config: Mapping[str, object]) -> AgentConfig:
        defaults = self.config.custom_config.get(DEFAULTS, {})
        if not isinstance(defaults, dict):
            raise RuntimeConfigError({f"custom_config/{DEFAULTS}": "is not an object"})
        try:
            return AgentConfig.model_validate({**defaults, **config})
        except ValidationError as error:
            raise RuntimeConfigError(
                {
                    "/".join([f"agent {name}", *map(str, fault["loc"])]): fault["msg"]
                    for fault in error.errors(include_url=False, include_input=False, include_context=False)
                }
            ) from None

    async def _make(
        self,
        name: str,
        settings: AgentConfig,
        tools: Sequence[Callable[..., Any] | FunctionTool],
        stack: AsyncExitStack,
    ) -> Agent[Any]:
        from agent_framework import Agent
        from agent_framework.openai import OpenAIChatCompletionClient
        from openai import AsyncOpenAI

        retries = self.config.max_retries if settings.max_retries is None else settings.max_retries
        endpoint = AsyncOpenAI(
            base_url=settings.base_url,
            api_key=settings.api_key.get_secret_value(),
            timeout=settings.timeout,
            max_retries=retries if self.config.retry_enabled else 0,
        )
        stack.push_async_callback(endpoint.close)
        options: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
        agent: Agent[Any] = Agent(
            OpenAIChatCompletionClient(model=settings.model, async_client=endpoint),
            settings.instructions,
            name=name,
            description=settings.description,
            tools=list(tools) or None,
            middleware=[_guarded(self.outgoing, f"{settings.model} at {urlsplit(settings.base_url).netloc}")],
            default_options={key: value for key, value in options.items() if value is not None},
        )
        return await stack.enter_async_context(agent)


def _guarded(outgoing: Outgoing, name: str) -> ChatMiddleware:
    """Every call of a model through the circuit breaker of its name."""
    from agent_framework import ChatMiddleware, ChatResponse, ChatResponseUpdate, ResponseStream

    class Guard(ChatMiddleware):
        async def process(self, context: ChatContext, call_next: Callable[[], Awaitable[None]]) -> None:
            if not context.stream:
                async with outgoing.guard(name, transient=_may_pass):
                    await call_next()
                return
            await call_next()
            answer = context.result
            if isinstance(answer, ResponseStream):
                # The model is called when the first piece is asked for.
                context.result = ResponseStream(pieces(answer), finalizer=lambda _: answer.get_final_response())

    async def pieces(
        answer: ResponseStream[ChatResponseUpdate, ChatResponse],
    ) -> AsyncIterator[ChatResponseUpdate]:
        async with outgoing.guard(name, transient=_may_pass) as begun:
            async for piece in answer:
                begun()
                yield piece

    return Guard()


def _may_pass(error: BaseException) -> bool:
    """Whether a model call failed by overload or by the network; Agent Framework raises its own errors from those."""
    from openai import APIConnectionError, InternalServerError, RateLimitError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (APIConnectionError, InternalServerError, RateLimitError)):
            return True
        cause = cause.__cause__
    return False
