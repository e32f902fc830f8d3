"""Agents that live on: events reach one conversation of theirs, and they look after their own adapter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aos.agents.purpose_driven import PurposeDrivenAgent
from aos.errors import AosError
from aos.lora.job import TrainingReport
from aos.ml.azure_ml_request import AzureMLRun
from aos.ml.pipeline_manager import MLPipelineManager
from aos.registry.agents import AgentEntry

NAMELESS = "perpetual"
"""Id of an agent that was given neither an id nor an adapter."""


class ActionInvalid(AosError, ValueError):
    code = "bad_action"
    title = "The agent cannot act like this."


class _Training(BaseModel):
    model_config = ConfigDict(extra="forbid")

    training_params: dict[str, Any]
    adapters: Annotated[list[dict[str, Any]], Field(max_length=100)] = []


class _Pipeline(BaseModel):
    """Further keys are options of `MLPipelineManager.run_pipeline`."""

    model_config = ConfigDict(extra="allow")

    subscription_id: str
    resource_group: str
    workspace_name: str
    agent_role: str | None = None
    training_params: dict[str, Any] = {}
    adapter_config: dict[str, Any] | None = None


class _Inference(BaseModel):
    model_config = ConfigDict(extra="forbid")

    agent_id: str | None = None
    prompt: Annotated[str, Field(min_length=1, max_length=1_000_000)]


class PerpetualAgent(PurposeDrivenAgent):
    """An agent whose conversation `main` goes on for ever, and which works the ML pipeline through `act`.

    In an app its life is event-driven: it costs nothing between events, and its schedules (`metadata.schedule` in the
    registry) are its heartbeat.

    Args:
        adapter_name: Its LoRA adapter: put into trainings that name none, and asked by inferences that name none.
        agent_id: Its id; by default the adapter's name.
        purpose: What it is for.
        ml: The pipeline, which agents may share; one of its own without it.
        more: As `PurposeDrivenAgent`.
    """

    def __init__(
        self,
        adapter_name: str | None = None,
        *,
        agent_id: str | None = None,
        purpose: str = "Stay aware of what happens, and act on it",
        ml: MLPipelineManager | None = None,
        **more: Any,
    ) -> None:
        super().__init__(agent_id or adapter_name or NAMELESS, purpose, adapter_name=adapter_name, **more)
        self._own_adapter = adapter_name
        self._ml = ml
        self._actions: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[Any]]] = {
            "trigger_lora_training": self._train,
            "run_azure_ml_pipeline": self._run_pipeline,
            "aml_infer": self._infer,
        }

    @classmethod
    def from_entry(cls, entry: AgentEntry) -> Self:
        return cls(
            entry.domain_knowledge.domain,
            agent_id=entry.agent_id,
            purpose=entry.purpose,
            purpose_scope=entry.purpose_scope,
            success_criteria=entry.success_criteria,
            system_message=entry.system_message,
        )

    @property
    def actions(self) -> Sequence[str]:
        """What `act` knows."""
        return tuple(self._actions)

    async def act(self, action: str, params: Mapping[str, Any] | None = None) -> Any:
        """Does something with the ML pipeline.

        - `trigger_lora_training` `{training_params, adapters?}`: trains each adapter, one after the other; returns a
          `TrainingReport` of each.
        - `run_azure_ml_pipeline` `{subscription_id, resource_group, workspace_name, agent_role?, ...}`: trains in Azure
          ML with the arguments of `MLPipelineManager.run_pipeline`; returns the `AzureMLRun`.
        - `aml_infer` `{prompt, agent_id?}`: returns what the deployed adapter answers.

        Raises:
            ActionInvalid: Unknown action (lists those that are known), or parameters that do not fit it (names each).
        """
        known = self._actions.get(action)
        if known is None:
            raise ActionInvalid(f"There is no action {action!r}. Known: {', '.join(self._actions)}.")
        try:
            return await known(params or {})
        except ValidationError as error:
            found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
            raise ActionInvalid(f"{action}: {'; '.join(found)}.") from None

    async def _train(self, params: Mapping[str, Any]) -> list[TrainingReport]:
        wanted = _Training.model_validate(params)
        adapters = wanted.adapters or [{}]
        named = [adapter | {"adapter_name": adapter.get("adapter_name") or self._adapter()} for adapter in adapters]
        return [
            await self._pipeline.train_adapter(self._role(adapter["adapter_name"]), wanted.training_params, adapter)
            for adapter in named
        ]

    def _role(self, adapter: object) -> str:
        """Whose entry of the registry says what the adapter is trained on: for its own, the agent's."""
        return self.agent_id if adapter == self._own_adapter else str(adapter)

    async def _run_pipeline(self, params: Mapping[str, Any]) -> AzureMLRun:
        wanted = _Pipeline.model_validate(params)
        role = wanted.agent_role or self._own_adapter
        return await self._pipeline.run_pipeline(**{**dict(wanted), **(wanted.model_extra or {}), "agent_role": role})

    async def _infer(self, params: Mapping[str, Any]) -> str:
        wanted = _Inference.model_validate(params)
        return await self._pipeline.infer(wanted.agent_id or self._adapter(), wanted.prompt)

    def _adapter(self) -> str:
        if self._own_adapter is None:
            raise ActionInvalid("Name the adapter: in the parameters, or as adapter_name of the agent.")
        return self._own_adapter

    @property
    def _pipeline(self) -> MLPipelineManager:
        if self._ml is None:
            self._ml = MLPipelineManager(settings=self._settings)
        return self._ml
