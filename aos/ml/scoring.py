"""Online endpoints of Azure Machine Learning, one per domain or one for all.

An endpoint of a chat model takes `{"input_data": {"input_string": [messages], "parameters": {...}}}` at `/score` and
answers `{"output": text}`; endpoints served by vLLM take OpenAI's form, and their URI ends in `/chat/completions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from aos.config_ml import AzureMLEndpoint
from aos.ml.errors import ModelRefused, ModelSettingError, ModelUnavailable, of_status

if TYPE_CHECKING:
    import httpx2
    from azure.core.credentials_async import AsyncTokenCredential

LONGEST_ANSWER = 4_000_000
"""Bytes of an answer that are read."""
MAX_TOKENS = 4096
SCOPE = "https://ml.azure.com/.default"
"""Of the token that signs an identity in (Azure ML, "Authenticate clients for online endpoints")."""


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer. `own`: from the domain's own endpoint, not from the one that serves all."""

    text: str
    own: bool
    model: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)


class _Output(BaseModel):
    output: str


class _Error(BaseModel):
    """What the scoring script of an adapter answers to a request that it does not take."""

    error: str


_ANSWER: TypeAdapter[_Output | _Error] = TypeAdapter(_Output | _Error)


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


class ScoringEndpoints:
    """Asks scoring URIs, with one pool of connections.

    Args:
        endpoints: By domain in lower case; `""` serves the others.
        timeout: Seconds for a request.
        credential: Signs in to endpoints that have no key; its owner closes it.
    """

    def __init__(
        self,
        endpoints: Mapping[str, AzureMLEndpoint],
        timeout: float,
        credential: AsyncTokenCredential | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._timeout = timeout
        self._credential = credential
        self._client: httpx2.AsyncClient | None = None

    def find(self, domain: str) -> tuple[AzureMLEndpoint, bool]:
        """The endpoint of a domain, and whether it is its own.

        Raises:
            ModelSettingError: Names the settings.
        """
        own = self._endpoints.get(domain.lower())
        endpoint = own or self._endpoints.get("")
        if endpoint is None:
            name = domain.upper() or "<DOMAIN>"
            raise ModelSettingError(
                f"azure_ml is not configured for domain {domain!r}: set MLENDPOINTURL and MLENDPOINTKEY, or "
                f"AML_{name}_SCORING_URI and AML_{name}_KEY."
            )
        return endpoint, own is not None

    async def score(self, domain: str, messages: Sequence[Mapping[str, str]], timeout: float | None = None) -> Scored:
        """The model's answer to a conversation.

        Args:
            messages: `{"role", "content"}`, oldest first.
            timeout: Seconds, instead of the general ones.

        Raises:
            ModelSettingError: No endpoint is configured for the domain.
            ModelUnavailable: It did not answer, is overloaded, or answered what cannot be read.
            ModelRefused: For good.
        """
        endpoint, own = self.find(domain)
        chat = urlsplit(endpoint.scoring_uri).path.endswith("/chat/completions")
        body: dict[str, object] = (
            {"messages": list(messages), "max_tokens": MAX_TOKENS}
            if chat
            else {"input_data": {"input_string": list(messages), "parameters": {"max_new_tokens": MAX_TOKENS}}}
        )
        raw = await self._post(endpoint, body, timeout or self._timeout)
        try:
            scored = _completion(raw, own) if chat else _output(raw, own)
        except ValidationError as error:
            raise ModelUnavailable("azure_ml gave an answer that cannot be read.") from error
        if not scored.text:
            raise ModelRefused("The answer is empty.")
        return scored

    async def _post(self, endpoint: AzureMLEndpoint, body: dict[str, object], timeout: float) -> bytes:
        import httpx2

        read = bytearray()
        try:
            async with asyncio.timeout(timeout):
                headers = await self._headers(endpoint)
                request: Any = {"json": body, "headers": headers, "timeout": None}
                async with self._http().stream("POST", endpoint.scoring_uri, **request) as answer:
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

    async def _headers(self, endpoint: AzureMLEndpoint) -> dict[str, str]:
        if endpoint.key:
            return {"Authorization": f"Bearer {endpoint.key}"}
        if self._credential is None:
            return {}
        from azure.core.exceptions import ClientAuthenticationError

        try:
            token = await self._credential.get_token(SCOPE)
        except ClientAuthenticationError as error:
            raise ModelRefused(
                f"azure_ml has no key, and the app cannot sign in: {str(error).splitlines()[0][:300]}",
                code="model_unauthorized",
            ) from error
        return {"Authorization": f"Bearer {token.token}"}

    async def check(self) -> None:
        """Azure's endpoints answer `GET /` beside their scoring URI without a key."""
        import httpx2

        uris = [urlsplit(endpoint.scoring_uri) for endpoint in self._endpoints.values()]
        for root in {f"{uri.scheme}://{uri.netloc}/" for uri in uris}:
            try:
                status = (await self._http().get(root, timeout=10)).status_code
            except httpx2.HTTPError as error:
                raise ModelUnavailable(f"azure_ml cannot be reached: {str(error)[:300]}") from error
            if status >= 500:
                raise ModelUnavailable(f"azure_ml answers with HTTP {status}.")

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _http(self) -> httpx2.AsyncClient:
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient()
        return self._client


def _output(raw: bytes, own: bool) -> Scored:
    said = _ANSWER.validate_json(raw)
    if isinstance(said, _Error):
        raise of_status("azure_ml", 400, said.error)
    return Scored(said.output, own)


def _completion(raw: bytes, own: bool) -> Scored:
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
    return Scored(completion.choices[0].message.content or "", own, completion.model, usage)
