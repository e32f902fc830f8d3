"""Online endpoints of Azure Machine Learning, one per domain or one for all.

An endpoint of a chat model takes `{"input_data": {"input_string": [messages], "parameters": {...}}}` at `/score` and
answers `{"output": text}`; endpoints served by vLLM take OpenAI's form, and their URI ends in `/chat/completions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from aos.config_ml import AzureMLEndpoint
from aos.ml import ModelSettingError
from aos.orchestration.chat import instructions, thread_of, went_on
from aos.orchestration.faults import of_status
from aos.orchestration.model_types import (
    ModelAnswer,
    ModelRefused,
    ModelRequest,
    ModelType,
    ModelUnavailable,
    Thread,
    ThreadStore,
)

if TYPE_CHECKING:
    import httpx2

LONGEST_ANSWER = 4_000_000
"""Bytes of an answer that are read."""
MAX_TOKENS = 4096


class _Scored(BaseModel):
    output: str


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Completion(BaseModel):
    model: str = ""
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class AzureMLBackend:
    """Asks scoring URIs.

    Args:
        endpoints: By domain in lower case; `""` serves the others.
        timeout: Seconds for a request.
    """

    model_type = ModelType.AZURE_ML
    runs_tools = False

    def __init__(self, endpoints: Mapping[str, AzureMLEndpoint], timeout: float) -> None:
        self._endpoints = endpoints
        self._timeout = timeout
        self._client: httpx2.AsyncClient | None = None

    def require(self, domain: str | None) -> None:
        if domain is None and self._endpoints:
            return
        self._endpoint(domain or "")

    def _endpoint(self, domain: str) -> tuple[AzureMLEndpoint, bool]:
        own = self._endpoints.get(domain.lower())
        endpoint = own or self._endpoints.get("")
        if endpoint is None:
            name = domain.upper() or "<DOMAIN>"
            raise ModelSettingError(
                f"azure_ml is not configured for domain {domain!r}: set MLENDPOINTURL and MLENDPOINTKEY, or "
                f"AML_{name}_SCORING_URI and AML_{name}_KEY."
            )
        return endpoint, own is not None

    async def ask(self, request: ModelRequest, threads: ThreadStore) -> tuple[ModelAnswer, Thread | None]:
        endpoint, own = self._endpoint(request.domain)
        thread = await thread_of(self.model_type, request, threads)
        messages = [
            {"role": "system", "content": instructions(request, own_model=own)},
            *({"role": said.role, "content": said.text} for said in thread.history),
            {"role": "user", "content": request.text},
        ]
        chat = urlsplit(endpoint.scoring_uri).path.endswith("/chat/completions")
        body: dict[str, object] = (
            {"messages": messages, "max_tokens": MAX_TOKENS}
            if chat
            else {"input_data": {"input_string": messages, "parameters": {"max_new_tokens": MAX_TOKENS}}}
        )
        raw = await self._post(endpoint, body, request.timeout or self._timeout)
        metadata = {"domain": request.domain, "domain_deployment": own}
        try:
            if chat:
                completion = _Completion.model_validate_json(raw)
                used = completion.usage
                usage = (
                    {
                        "input_tokens": used.prompt_tokens,
                        "output_tokens": used.completion_tokens,
                        "total_tokens": used.total_tokens,
                    }
                    if used
                    else {}
                )
                answer = ModelAnswer(
                    completion.choices[0].message.content or "", completion.model, usage, metadata=metadata
                )
            else:
                answer = ModelAnswer(_Scored.model_validate_json(raw).output, "", metadata=metadata)
        except ValidationError as error:
            raise ModelUnavailable("azure_ml gave an answer that cannot be read.") from error
        if not answer.text:
            raise ModelRefused("The answer is empty.")
        return answer, await went_on(self.model_type, request, threads, thread, answer.text)

    async def _post(self, endpoint: AzureMLEndpoint, body: dict[str, object], timeout: float) -> bytes:
        import httpx2

        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        if self._client is None:
            self._client = httpx2.AsyncClient()
        read = bytearray()
        try:
            async with (
                asyncio.timeout(timeout),
                self._client.stream("POST", endpoint.scoring_uri, json=body, headers=headers, timeout=None) as answer,
            ):
                async for piece in answer.aiter_bytes():
                    read += piece
                    if len(read) > LONGEST_ANSWER:
                        raise ModelUnavailable(f"azure_ml answered with more than {LONGEST_ANSWER} bytes.")
        except TimeoutError as error:
            raise ModelUnavailable(f"azure_ml did not answer within {timeout:g} s.") from error
        except httpx2.HTTPError as error:
            raise ModelUnavailable(f"azure_ml cannot be reached: {str(error)[:300]}") from error
        if not answer.is_success:
            message = read[:300].decode(errors="replace")
            raise of_status("azure_ml", answer.status_code, message, answer.headers.get("retry-after"))
        return bytes(read)

    async def check(self) -> None:
        """Azure's endpoints answer `GET /` beside their scoring URI without a key."""
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient()
        uris = [urlsplit(endpoint.scoring_uri) for endpoint in self._endpoints.values()]
        roots = {f"{uri.scheme}://{uri.netloc}/" for uri in uris}
        for root in roots:
            try:
                status = (await self._client.get(root, timeout=10)).status_code
            except httpx2.HTTPError as error:
                raise ModelUnavailable(f"azure_ml cannot be reached: {str(error)[:300]}") from error
            if status >= 500:
                raise ModelUnavailable(f"azure_ml answers with HTTP {status}.")

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None
