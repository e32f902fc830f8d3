"""What the orchestrator and the backends of models say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from aos.ml.errors import ModelRefused as ModelRefused
from aos.ml.errors import ModelUnavailable as ModelUnavailable

Role = Literal["user", "assistant"]


class ModelType(StrEnum):
    """Where models are served."""

    FOUNDRY_AGENT_SERVICE = "foundry_agent_service"
    AZURE_ML = "azure_ml"
    VLLM = "vllm"
    OPENAI = "openai"
    AGENT_FRAMEWORK = "agent_framework"
    LOCAL_MODEL = "local_model"


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation as one backend knows it: by the service's id, or by what was said, oldest first."""

    thread_id: str
    history: tuple[Said, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A question to a model.

    Attributes:
        instructions: Instead of the general ones.
        tools: Of the Foundry Agent Service.
        timeout: Seconds; None leaves it to the backend.
    """

    domain: str
    text: str
    conversation_id: str
    instructions: str | None = None
    tools: tuple[str, ...] = ()
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """An answer. `usage` has `input_tokens`, `output_tokens` and `total_tokens`, where the service counts them."""

    text: str
    model: str
    usage: Mapping[str, int] = field(default_factory=dict)
    agent_id: str | None = None
    tools_used: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)


class ThreadStore(Protocol):
    """Remembers the thread of each conversation, per backend."""

    async def load(self, backend: ModelType, conversation_id: str) -> Thread | None: ...

    async def claim(self, backend: ModelType, conversation_id: str, thread: Thread) -> Thread:
        """Stores a first thread, unless somebody else did: the one that is stored."""
        ...

    async def save(self, backend: ModelType, conversation_id: str, thread: Thread) -> None: ...


class ModelBackend(Protocol):
    """One way to a model. Methods raise `TransientError` when the model cannot answer at present."""

    @property
    def model_type(self) -> ModelType: ...

    @property
    def runs_tools(self) -> bool:
        """Whether requests may ask for tools of the service."""
        ...

    def require(self, domain: str | None) -> None:
        """Checks that the settings suffice for this domain; None: for any.

        Raises:
            ModelSettingError: The detail names the missing setting.
        """
        ...

    async def ask(self, request: ModelRequest, threads: ThreadStore) -> tuple[ModelAnswer, Thread | None]: ...

    async def check(self) -> None:
        """Asks the service whether it is there."""
        ...

    async def close(self) -> None: ...
