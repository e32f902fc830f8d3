from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from azure.core.exceptions import ServiceResponseError
from azure.core.pipeline.transport import AioHttpTransport

from aos.config import Settings
from aos.lora.job import AdapterConfig, TrainingParams, TrainingReport
from aos.lora.registry import AdapterRegistry
from aos.lora.training import REPORT
from aos.storage.account import StorageAccount


def finished(folder: Path) -> Path:
    """A version as a training leaves it, without its weights."""
    report = TrainingReport(
        adapter="lost-answer",
        version=1,
        path=str(folder),
        model_name="base",
        config=AdapterConfig(),
        params=TrainingParams(model_name="base", data_path="data.jsonl"),
        examples=1,
        eval_examples=0,
        data_hash="h",
        steps=1,
        epochs=1.0,
        first_loss=None,
        train_loss=1.0,
        eval_loss=None,
        base_eval_loss=None,
        trained_parameters=1,
        all_parameters=1,
        resumed_from=0,
        seconds=1.0,
        created_at=1.0,
    )
    (folder / REPORT).write_text(report.model_dump_json(), encoding="utf-8")
    return folder


async def test_a_version_whose_entry_was_answered_by_nobody_is_entered_once(
    own_storage_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = StorageAccount(own_storage_settings)
    send, entered = AioHttpTransport.send, 0

    async def loses(self: AioHttpTransport, request: Any, **options: Any) -> Any:
        nonlocal entered
        response = await send(self, request, **options)
        if request.method in ("POST", "PUT", "PATCH") and "v:000001" in f"{unquote(request.url)} {request.body}":
            entered += 1
            if entered == 1:
                raise ServiceResponseError("The connection was reset.")
        return response

    monkeypatch.setattr(AioHttpTransport, "send", loses)
    try:
        registry = AdapterRegistry(account)
        version = await registry.register(finished(tmp_path))
        assert entered == 2
        assert await registry.versions("lost-answer") == [version]
    finally:
        await account.close()
