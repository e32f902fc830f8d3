"""Azure Machine Learning as a model: `aos.ml.scoring` with a conversation around it."""

from __future__ import annotations

from collections.abc import Mapping

from aos.config_ml import AzureMLEndpoint
from aos.ml.scoring import Scored, ScoringEndpoints
from aos.orchestration.chat import instructions, thread_of, went_on, within_context
from aos.orchestration.model_types import ModelAnswer, ModelRequest, ModelType, Thread, ThreadStore


class AzureMLBackend:
    """Asks scoring URIs.

    Args:
        endpoints: By domain in lower case; `""` serves the others.
        timeout: Seconds for a request.
    """

    model_type = ModelType.AZURE_ML
    runs_tools = False

    def __init__(self, endpoints: Mapping[str, AzureMLEndpoint], timeout: float) -> None:
        self._configured = bool(endpoints)
        self._endpoints = ScoringEndpoints(endpoints, timeout)

    def require(self, domain: str | None) -> None:
        if domain is None and self._configured:
            return
        self._endpoints.find(domain or "")

    async def ask(self, request: ModelRequest, threads: ThreadStore) -> tuple[ModelAnswer, Thread | None]:
        _, own = self._endpoints.find(request.domain)
        thread = await thread_of(self.model_type, request, threads)

        async def ask(thread: Thread) -> Scored:
            messages = [
                {"role": "system", "content": instructions(request, own_model=own)},
                *({"role": str(said.role), "content": said.text} for said in thread.history),
                {"role": "user", "content": request.text},
            ]
            return await self._endpoints.score(request.domain, messages, request.timeout)

        scored, thread = await within_context(thread, ask)
        metadata = {"domain": request.domain, "domain_deployment": own}
        answer = ModelAnswer(scored.text, scored.model, scored.usage, metadata=metadata)
        return answer, await went_on(self.model_type, request, threads, thread, answer.text)

    async def check(self) -> None:
        await self._endpoints.check()

    async def close(self) -> None:
        await self._endpoints.close()
