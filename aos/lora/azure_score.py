"""An adapter behind an online endpoint of Azure Machine Learning: `init` once, `run` for each request.

Requests and answers have the form of Azure's own chat models, which `aos.ml.scoring` speaks: `{"input_data":
{"input_string": [messages], "parameters": {"max_new_tokens", "temperature", "top_p"}}}` and `{"output": text}`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from aos.lora.data import ChatMessage
from aos.lora.errors import BaseModelMissing, PromptTooLong
from aos.lora.inference import AdapterModel
from aos.lora.training import REPORT, read_report

BASE = "AOS_BASE_MODEL"
ADAPTER = "adapter"


class _Parameters(BaseModel):
    max_new_tokens: Annotated[int, Field(ge=1, le=131_072)] = 512
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class _Input(BaseModel):
    input_string: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    parameters: _Parameters = _Parameters()


class _Request(BaseModel):
    input_data: _Input


_model: AdapterModel | None = None


def init() -> None:
    """Loads the adapter in `AZUREML_MODEL_DIR` and its base model (`AOS_BASE_MODEL`, else the one it was trained on).

    Raises:
        BaseModelMissing: The base model cannot be loaded, or there is no adapter.
    """
    global _model
    root = Path(os.environ["AZUREML_MODEL_DIR"])
    folder = next((report.parent for report in sorted(root.glob(f"**/{REPORT}"))), None)
    if folder is None:
        raise BaseModelMissing(f"{root} holds no adapter: none of its folders has a {REPORT}.")
    _model = AdapterModel(os.environ.get(BASE) or read_report(folder).model_name, {ADAPTER: folder})


def run(raw: str) -> dict[str, Any]:
    """What the adapter says to one request; `{"error": ...}` to one that is not valid."""
    if _model is None:
        raise RuntimeError("init was not called")
    try:
        asked = _Request.model_validate_json(raw).input_data
    except ValidationError as error:
        return {
            "error": "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}"
                for e in error.errors(include_input=False, include_url=False)
            )
        }
    how = asked.parameters
    try:
        made = _model.generate(
            ADAPTER,
            [message.model_dump() for message in asked.input_string],
            max_tokens=how.max_new_tokens,
            temperature=how.temperature,
            top_p=how.top_p,
        )
    except PromptTooLong as error:
        return {"error": error.detail}
    return {"output": made.text}
