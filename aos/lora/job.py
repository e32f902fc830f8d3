"""What a training is asked to do, and what it reports."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from aos.lora.errors import TrainingJobInvalid

ADAPTER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")


class AdapterConfig(BaseModel):
    """The shape of a LoRA adapter, as `domain_knowledge.adapter_config` of the agent registry holds it.

    Attributes:
        r: Rank of the update matrices.
        lora_alpha: Its scale is `lora_alpha / r`.
        target_modules: Names of the linear layers that get one; `["all-linear"]` for each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter_name: str | None = None
    task_type: Literal["causal_lm"] = "causal_lm"
    r: Annotated[int, Field(ge=1, le=1024)] = 16
    lora_alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)] = ("q_proj", "v_proj")

    @field_validator("task_type", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("adapter_name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and ADAPTER_NAME.fullmatch(value) is None:
            raise ValueError("1 to 48 of a-z, 0-9, - and _, a letter or digit first")
        return value


class TrainingParams(BaseModel):
    """What to train on and how.

    Attributes:
        model_name: Of the base model: a folder, or a name of the Hugging Face hub.
        data_path: A JSONL file; each line `{"messages": [{"role", "content"}, ...]}`, an assistant's message last.
        output_dir: Where adapters lie: `{output_dir}/{adapter}/v{n}`.
        eval_path: Examples to evaluate with; without it a part of the data is kept for that.
        eval_fraction: That part.
        max_steps: Ends the training early.
        batch_size: Examples per step; times `gradient_accumulation` per update.
        max_length: Tokens of an example; longer ones lose their beginning.
        checkpoint_steps: Updates between two checkpoints, from which a killed training goes on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_name: Annotated[str, Field(min_length=1, max_length=1000)]
    data_path: Annotated[str, Field(min_length=1, max_length=4096)]
    output_dir: Annotated[str, Field(min_length=1, max_length=4096)] = "adapters"
    eval_path: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    eval_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    max_steps: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 4
    gradient_accumulation: Annotated[int, Field(ge=1, le=1024)] = 1
    max_length: Annotated[int, Field(ge=8, le=131_072)] = 2048
    checkpoint_steps: Annotated[int, Field(ge=1)] = 50
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42


class TrainingJob(BaseModel):
    """One training of one adapter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter: Annotated[str, Field(pattern=rf"^{ADAPTER_NAME.pattern}$")]
    params: TrainingParams
    config: AdapterConfig = AdapterConfig()

    @classmethod
    def read(cls, adapter: str, params: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Self:
        """A job from what a caller gave.

        Raises:
            TrainingJobInvalid: Names each wrong parameter.
        """
        try:
            return cls.model_validate({"adapter": adapter, "params": params, "config": config or {}})
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
            raise TrainingJobInvalid(f"{'; '.join(problems)}.") from None

    @property
    def folder(self) -> Path:
        """Where this adapter's versions, and the checkpoints of a training, lie."""
        return Path(self.params.output_dir) / self.adapter

    def fingerprint(self, data_hash: str) -> str:
        """The same for the same training on the same data: its checkpoints may be used to go on."""
        asked = self.model_dump_json(exclude={"params": {"data_path", "eval_path"}})
        return hashlib.sha256(f"{asked}\n{data_hash}".encode()).hexdigest()


class Progress(BaseModel):
    """How far a training is. `loss` is that of the last updates."""

    phase: Literal["loading", "training", "evaluating", "saving"]
    step: int = 0
    steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None


class TrainingReport(BaseModel):
    """What a training made.

    Attributes:
        path: Folder of the adapter in PEFT format, with its model card `README.md` and this report.
        version: Counts the trainings of an adapter from 1.
        base_eval_loss: Of the base model without the adapter, on the same examples.
        resumed_from: Update from which a killed training went on; 0: from its beginning.
        seconds: Of this run.
    """

    model_config = ConfigDict(protected_namespaces=())

    adapter: str
    version: int
    path: str
    model_name: str
    config: AdapterConfig
    params: TrainingParams
    examples: int
    eval_examples: int
    data_hash: str
    steps: int
    epochs: float
    first_loss: float | None
    train_loss: float
    eval_loss: float | None
    base_eval_loss: float | None
    trained_parameters: int
    all_parameters: int
    resumed_from: int
    seconds: float
    created_at: float
