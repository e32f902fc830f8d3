"""The orchestrator of models: asks the one that was named, or the best that is there, and goes on when one fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from aos.config import MLConfig
from aos.errors import AosError
from aos.kernel.breaker import Breaker
from aos.kernel.clock import Clock, SystemClock
from aos.ml import InvalidModelRequest, ModelSettingError
from aos.ml.retries import Retries
from aos.orchestration.backends import build_backends
from aos.orchestration.faults import cannot_answer, meaning
from aos.orchestration.model_types import ModelAnswer, ModelBackend, ModelRequest, ModelType, Thread, ThreadStore
from aos.orchestration.requests import parse_request, parse_type
from aos.orchestration.threads import RememberedThreads, StoredThreads
from aos.storage.account import StorageAccount

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

log = logging.getLogger("aos.orchestration")

HEALTH_KNOWN_FOR = 15.0
"""Seconds."""
CHECK_TIMEOUT = 10.0
LARGEST_BATCH = 1000
RETRY_DELAY = 0.5
REQUIRED = frozenset({"domain", "user_input", "conversation_id"})
ARGUMENTS = REQUIRED | {"model_type", "system_prompt", "tools", "timeout", "fallback"}


class ModelOrchestrator:
    """Sends questions to models; `async with` initializes and closes it.

    Args:
        config: Without it, `MLConfig.from_env()`.
        credential: An Entra identity for Foundry, used when there is no API key; the caller closes it.
        account: Where conversations are remembered, so that any process goes on with them; without it this process
            remembers for itself.
        app_name: Written into the metadata of what is made in Foundry.
    """

    def __init__(
        self,
        config: MLConfig | None = None,
        *,
        credential: AsyncTokenCredential | None = None,
        account: StorageAccount | None = None,
        clock: Clock | None = None,
        app_name: str = "aos",
    ) -> None:
        self.config = config or MLConfig.from_env()
        self._clock = clock or SystemClock()
        self._threads: ThreadStore = RememberedThreads() if account is None else StoredThreads(account)
        self._backends = build_backends(self.config, credential, self._clock, app_name)
        self._breakers = {kind: Breaker(kind.value, self._clock, meaning) for kind in self._backends}
        self._locks: WeakValueDictionary[tuple[ModelType, str], asyncio.Lock] = WeakValueDictionary()
        self._retries = Retries(self.config.model_retries, RETRY_DELAY, self._clock)
        self._health: dict[ModelType, tuple[str | None, float]] = {}
        self._counts = {"total_requests": 0, "failed_requests": 0, "fallbacks": 0}

    async def initialize(self) -> None:
        """Logs which models are configured; connections are made when first used."""
        configured = [kind.value for kind in self._backends if self._configured(kind, None)]
        log.info("models: %s", ", ".join(configured) or "none is configured")

    async def close(self) -> None:
        """Closes all clients."""
        for backend in self._backends.values():
            await backend.close()

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def process_model_request(
        self,
        model_type: ModelType | str,
        domain: str,
        user_input: str,
        conversation_id: str,
        *,
        system_prompt: str | None = None,
        tools: Sequence[str] = (),
        timeout: float | None = None,
        fallback: bool | None = None,
    ) -> dict[str, Any]:
        """Asks a model; if it cannot answer, the next one that is configured.

        Args:
            conversation_id: Questions with the same one go on with the same thread of a model. Models do not know each
                other's threads.
            tools: Of the Foundry Agent Service.
            timeout: Seconds for each model that is tried.
            fallback: Instead of the setting `AOS_MODEL_FALLBACK`.

        Returns:
            `reply`, `success` (true), `thread_id`, `agent_id`, `model`, `usage`, `tools_used`, `metadata`,
            `conversationId`, `domain`, `model_type` and `source` (which model answered), `fallback_from` (the model
            that was asked for, if another one answered), `failures` (why: `{model_type, error_code, error}`),
            `execution_time` in seconds, `timestamp`.

        Raises:
            ModelSettingError: The model is not configured; the detail names the setting.
            InvalidModelRequest: The request is not valid.
            AosError: Of the last model that was tried.
        """
        asked = parse_type(model_type)
        request = parse_request(
            domain=domain,
            text=user_input,
            conversation_id=conversation_id,
            instructions=system_prompt,
            tools=tools,
            timeout=timeout,
        )
        backend = self._backends[asked]
        backend.require(request.domain)
        if request.tools and not backend.runs_tools:
            raise InvalidModelRequest(f"tools: {asked.value} has none; foundry_agent_service has.", code="unknown_tool")
        wanted = self.config.model_fallback if fallback is None else fallback
        order = [asked, *(self._others(asked, request) if wanted else ())]
        failures: list[dict[str, str]] = []
        self._counts["total_requests"] += 1
        began = asyncio.get_running_loop().time()
        for kind in order:
            try:
                answer, thread = await self._ask(self._backends[kind], request)
            except AosError as error:
                failures.append({"model_type": kind.value, "error_code": error.code, "error": error.detail})
                if kind is order[-1] or not cannot_answer(error):
                    self._counts["failed_requests"] += 1
                    raise
                log.warning("%s cannot answer (%s), trying the next model", kind.value, error.code)
                continue
            self._counts["fallbacks"] += kind is not asked
            seconds = asyncio.get_running_loop().time() - began
            return _result(request, asked, kind, answer, thread, failures, seconds)
        raise AssertionError("the last model answers or raises")

    async def select_optimal_model(self, domain: str) -> ModelType:
        """The first model, Foundry before all, that is configured for this domain and healthy.

        Raises:
            ModelSettingError: None is configured.
        """
        configured = [kind for kind in self._backends if self._configured(kind, domain)]
        if not configured:
            raise ModelSettingError(
                f"No model is configured for domain {domain!r}: set FOUNDRY_AGENT_SERVICE_ENDPOINT and "
                "FOUNDRY_AGENT_SERVICE_API_KEY, or the settings of another model."
            )
        for kind in configured:
            if self._breakers[kind].circuit.state != "open" and await self._problem(kind) is None:
                return kind
        # All are down: asking the preferred one says why.
        return configured[0]

    async def batch_process_requests(self, requests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Processes requests, at most `AOS_MODEL_CONCURRENCY` at a time.

        Args:
            requests: Arguments of `process_model_request` each; without `model_type` the best model is chosen.

        Returns:
            `total_requests`, `successful_requests`, `failed_requests`, `timestamp`, and `results` in the order of the
            requests; one that failed has `success` false, `error_code` and `error`.

        Raises:
            InvalidModelRequest: There are more than 1000.
        """
        if len(requests) > LARGEST_BATCH:
            raise InvalidModelRequest(f"requests: {len(requests)}; at most {LARGEST_BATCH} at once.")
        slots = asyncio.Semaphore(self.config.max_concurrent_requests)

        async def one(request: Mapping[str, Any]) -> dict[str, Any]:
            async with slots:
                try:
                    return await self._process(request)
                except AosError as error:
                    return {
                        "success": False,
                        "error_code": error.code,
                        "error": error.detail,
                        "conversationId": request.get("conversation_id"),
                        "domain": request.get("domain"),
                        "model_type": request.get("model_type"),
                        "source": "model_orchestrator",
                    }

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(request)) for request in requests]
        results = [task.result() for task in tasks]
        succeeded = sum(bool(result["success"]) for result in results)
        return {
            "total_requests": len(results),
            "successful_requests": succeeded,
            "failed_requests": len(results) - succeeded,
            "results": results,
            "timestamp": _now(),
        }

    async def health(self) -> dict[str, Any]:
        """Asks every configured model: `healthy`, and per model `configured`, `healthy`, `circuit`, `problem`."""
        kinds = list(self._backends)
        problems = await asyncio.gather(*(self._problem(kind) for kind in kinds if self._configured(kind, None)))
        found = iter(problems)
        models: dict[str, dict[str, Any]] = {}
        for kind in kinds:
            configured = self._configured(kind, None)
            problem = next(found) if configured else None
            circuit = self._breakers[kind].circuit.state
            well = configured and problem is None and circuit != "open"
            models[kind.value] = {"configured": configured, "healthy": well, "circuit": circuit, "problem": problem}
        return {"healthy": any(model["healthy"] for model in models.values()), "models": models}

    def get_orchestrator_status(self) -> dict[str, Any]:
        """Counters of this process and the state of every circuit breaker."""
        return {
            **self._counts,
            "circuits": {kind.value: breaker.circuit.state for kind, breaker in self._breakers.items()},
        }

    async def _process(self, request: Mapping[str, Any]) -> dict[str, Any]:
        arguments = dict(request)
        if unknown := sorted(map(str, arguments.keys() - ARGUMENTS)):
            raise InvalidModelRequest(f"request: {unknown[0][:64]!r} unknown; known: {', '.join(sorted(ARGUMENTS))}.")
        if missing := sorted(REQUIRED - arguments.keys()):
            raise InvalidModelRequest(f"request: {missing[0]} is missing.")
        if arguments.get("model_type") is None:
            arguments["model_type"] = await self.select_optimal_model(str(arguments.get("domain", "")))
        return await self.process_model_request(**arguments)

    async def _ask(self, backend: ModelBackend, request: ModelRequest) -> tuple[ModelAnswer, Thread | None]:
        key = backend.model_type, request.conversation_id
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            with self._breakers[backend.model_type].guard():
                if backend.model_type is ModelType.FOUNDRY_AGENT_SERVICE:
                    return await backend.ask(request, self._threads)  # its client retries, and knows when it may
                until = self._clock.now() + (request.timeout or self.config.model_timeout)
                return await self._retries.run(lambda: backend.ask(request, self._threads), until=until)

    def _others(self, asked: ModelType, request: ModelRequest) -> list[ModelType]:
        return [
            kind
            for kind, backend in self._backends.items()
            if kind is not asked
            and self._configured(kind, request.domain)
            and (backend.runs_tools or not request.tools)
        ]

    def _configured(self, kind: ModelType, domain: str | None) -> bool:
        with suppress(ModelSettingError):
            self._backends[kind].require(domain)
            return True
        return False

    async def _problem(self, kind: ModelType) -> str | None:
        """Why a model is not healthy; asked at most every 15 seconds."""
        problem, until = self._health.get(kind, (None, 0.0))
        if until <= self._clock.now():
            try:
                async with asyncio.timeout(CHECK_TIMEOUT):
                    await self._backends[kind].check()
                problem = None
            except AosError as error:
                problem = error.detail
            except TimeoutError:
                problem = f"no answer within {CHECK_TIMEOUT:g} s"
            self._health[kind] = problem, self._clock.now() + HEALTH_KNOWN_FOR
        return problem


def _result(
    request: ModelRequest,
    asked: ModelType,
    kind: ModelType,
    answer: ModelAnswer,
    thread: Thread | None,
    failures: list[dict[str, str]],
    seconds: float,
) -> dict[str, Any]:
    return {
        "success": True,
        "reply": answer.text,
        "conversationId": request.conversation_id,
        "domain": request.domain,
        "model_type": kind.value,
        "source": kind.value,
        "fallback_from": None if kind is asked else asked.value,
        "failures": failures,
        "model": answer.model,
        "thread_id": thread.thread_id if thread else None,
        "agent_id": answer.agent_id,
        "tools_used": list(answer.tools_used),
        "usage": dict(answer.usage),
        "metadata": dict(answer.metadata),
        "execution_time": seconds,
        "timestamp": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
