"""The Foundry Agent Service as a backend: a conversation is a thread there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aos.config import MLConfig
from aos.errors import ConversationGone
from aos.ml import FoundryAgentServiceClient, FoundryAgentServiceConfig, FoundryResponse, ModelSettingError
from aos.orchestration.model_types import ModelAnswer, ModelRequest, ModelType, ModelUnavailable, Thread, ThreadStore

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential


class FoundryBackend:
    """Answers through `FoundryAgentServiceClient`."""

    model_type = ModelType.FOUNDRY_AGENT_SERVICE
    runs_tools = True

    def __init__(self, config: MLConfig, credential: AsyncTokenCredential | None, app_name: str) -> None:
        self._enabled = config.enable_foundry_agent_service
        self._config = FoundryAgentServiceConfig.from_ml_config(config)
        self._identity = credential is not None
        self._client = FoundryAgentServiceClient(self._config, credential, app_name=app_name)

    def require(self, domain: str | None) -> None:
        if not self._enabled:
            raise ModelSettingError("Foundry Agent Service is disabled: set AOS_ENABLE_FOUNDRY_AGENT_SERVICE=true.")
        self._config.validate(identity=self._identity)

    async def ask(self, request: ModelRequest, threads: ThreadStore) -> tuple[ModelAnswer, Thread | None]:
        if not self._config.enable_stateful_threads:
            return _answer(await self._send(request, None)), None
        known = await threads.load(self.model_type, request.conversation_id)
        thread = known or await self._begin(request, threads)
        try:
            return _answer(await self._send(request, thread.thread_id)), thread
        except ConversationGone:
            if known is None:
                raise
        # Deleted outside: the conversation goes on in a new thread, which knows nothing of the old one.
        thread = Thread(await self._create(request))
        await threads.save(self.model_type, request.conversation_id, thread)
        return _answer(await self._send(request, thread.thread_id), thread_replaced=True), thread

    async def _begin(self, request: ModelRequest, threads: ThreadStore) -> Thread:
        ours = Thread(await self._create(request))
        thread = await threads.claim(self.model_type, request.conversation_id, ours)
        if thread != ours:
            await self._client.delete_thread(ours.thread_id)
        return thread

    async def _create(self, request: ModelRequest) -> str:
        return await self._client.create_thread({"aos_conversation": request.conversation_id})

    async def _send(self, request: ModelRequest, thread_id: str | None) -> FoundryResponse:
        return await self._client.ask(
            request.text,
            thread_id,
            request.domain,
            request.instructions,
            request.tools,
            timeout=request.timeout,
        )

    async def check(self) -> None:
        if not await self._client.health_check():
            raise ModelUnavailable("Foundry Agent Service is unhealthy; the log says why.")

    async def close(self) -> None:
        await self._client.close()


def _answer(response: FoundryResponse, **more: object) -> ModelAnswer:
    return ModelAnswer(
        text=response.content,
        model=response.model,
        usage={name: value for name, value in response.usage.items() if isinstance(value, int)},
        agent_id=response.agent_id,
        tools_used=tuple(response.tools_used),
        metadata=response.metadata | more,
    )
