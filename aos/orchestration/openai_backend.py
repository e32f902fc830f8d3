"""vLLM, OpenAI and servers of this machine: whatever speaks OpenAI's chat completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aos.kernel.clock import Clock
from aos.ml import ModelSettingError
from aos.orchestration.chat import instructions, thread_of, went_on, within_context
from aos.orchestration.faults import model_errors
from aos.orchestration.model_types import ModelAnswer, ModelRefused, ModelRequest, ModelType, Thread, ThreadStore

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

MODELS_KNOWN_FOR = 60.0
"""Seconds after which an adapter may have come or gone."""


@dataclass(frozen=True, slots=True)
class Server:
    """An OpenAI-compatible server. `needs` names the settings that are missing, `adapters` says whether it may serve a
    domain's adapter as `{model}-{domain}`."""

    model_type: ModelType
    base_url: str | None
    model: str | None
    api_key: str | None
    needs: str
    adapters: bool = False

    def require(self) -> tuple[str, str]:
        """Its URL and model.

        Raises:
            ModelSettingError: There is none, or a key is missing.
        """
        if not self.base_url or not self.model or (self.model_type is ModelType.OPENAI and not self.api_key):
            raise ModelSettingError(f"{self.model_type.value} is not configured: set {self.needs}.")
        return self.base_url, self.model


class OpenAIBackend:
    """Asks `server`.

    Args:
        timeout: Seconds for a request.
    """

    runs_tools = False

    def __init__(self, server: Server, timeout: float, clock: Clock) -> None:
        self._server = server
        self._timeout = timeout
        self._clock = clock
        self._client: AsyncOpenAI | None = None
        self._models: tuple[frozenset[str], float] = frozenset(), 0.0

    @property
    def model_type(self) -> ModelType:
        return self._server.model_type

    def require(self, domain: str | None) -> None:
        self._server.require()

    async def ask(self, request: ModelRequest, threads: ThreadStore) -> tuple[ModelAnswer, Thread | None]:
        thread = await thread_of(self.model_type, request, threads)
        _, model = self._server.require()
        adapter = f"{model}-{request.domain}"
        own = self._server.adapters and adapter in await self._list_models()
        system = instructions(request, own_model=own)

        async def ask(thread: Thread) -> ModelAnswer:
            messages = _messages(system, thread, request.text)
            with model_errors(self.model_type.value):
                completion = await self._openai.chat.completions.create(
                    model=adapter if own else model, messages=messages, timeout=request.timeout or self._timeout
                )
                return _answer(completion, {"domain": request.domain, "domain_deployment": own})

        answer, thread = await within_context(thread, ask)
        return answer, await went_on(self.model_type, request, threads, thread, answer.text)

    async def _list_models(self) -> frozenset[str]:
        names, until = self._models
        if until <= self._clock.now():
            with model_errors(self.model_type.value):
                names = frozenset([model.id async for model in self._openai.models.list(timeout=10)])
            self._models = names, self._clock.now() + MODELS_KNOWN_FOR
        return names

    async def check(self) -> None:
        with model_errors(self.model_type.value):
            await self._openai.models.list(timeout=10)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    @property
    def _openai(self) -> AsyncOpenAI:
        if self._client is None:
            self._client = openai_client(self._server)
        return self._client


def openai_client(server: Server) -> AsyncOpenAI:
    """A client of the server; it never retries by itself."""
    from openai import AsyncOpenAI

    base_url, _ = server.require()
    # Servers that want no key take any.
    return AsyncOpenAI(base_url=base_url, api_key=server.api_key or "none", max_retries=0)


def _messages(system: str, thread: Thread, text: str) -> list[ChatCompletionMessageParam]:
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": system}]
    for said in thread.history:
        if said.role == "user":
            messages.append({"role": "user", "content": said.text})
        else:
            messages.append({"role": "assistant", "content": said.text})
    messages.append({"role": "user", "content": text})
    return messages


def _answer(completion: ChatCompletion, metadata: dict[str, object]) -> ModelAnswer:
    choice = completion.choices[0]
    text = choice.message.content or choice.message.refusal or ""
    if choice.finish_reason == "content_filter" or not text:
        raise ModelRefused(
            f"The answer is empty or was filtered ({choice.finish_reason}).", code=choice.finish_reason or None
        )
    if choice.finish_reason == "length":
        metadata = metadata | {"incomplete": "max_output_tokens"}
    usage = completion.usage
    counted = (
        {
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        }
        if usage
        else {}
    )
    return ModelAnswer(text, str(completion.model), counted, metadata=metadata)
