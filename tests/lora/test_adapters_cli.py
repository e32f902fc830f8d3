"""`python -m aos adapters`, as somebody types it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import httpx2
import pytest

from aos.config import STORAGE, Settings
from aos.storage.account import StorageAccount
from tests.lora.tiny import ROLES

pytestmark = pytest.mark.ml


async def run(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Status and output of a command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aos", "adapters", *arguments),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 100)
    return process.returncode or 0, output.decode()


async def test_an_adapter_is_trained_listed_compared_and_served(
    base: Path, data: dict[str, Path], storage_settings: Settings, tmp_path: Path
) -> None:
    settings = {"AOS_BASE_MODEL": str(base), "AOS_ADAPTERS_DIR": "mine"}
    modules = ("--target-modules", "q_proj,v_proj,gate_proj,down_proj", "--rank", "8")
    how = ("--max-steps", "30", "--epochs", "100", "--learning-rate", "0.01", "--batch-size", "8", *modules)
    account = StorageAccount(storage_settings)
    container = await account.container("training-data")
    await container.upload_blob("cfo/finance.jsonl", data["cfo"].read_bytes(), overwrite=True)
    await account.close()
    cloud = {STORAGE: storage_settings.storage or ""}
    (status, said), (other, registered) = (
        await run(tmp_path, "train", "ceo", "--data", str(data["ceo"]), *how, **settings),
        await run(
            tmp_path,
            "train",
            "cfo",
            "--data",
            "training-data/cfo/finance.jsonl",
            "--register",
            *how,
            **settings,
            **cloud,
        ),
    )
    assert (status, other) == (0, 0), said + registered
    assert "ceo v1" in said
    assert "Registered as cfo v" in registered
    assert (tmp_path / "mine/ceo/v1/adapter_model.safetensors").exists()

    status, listed = await run(tmp_path, "list", **settings, **cloud)
    assert status == 0
    assert len(re.findall(r"ceo +│ v1 +│ mine", listed)) == 1
    assert len(re.findall(r"cfo +│ v\d+ +│ registry", listed)) == 1

    status, shown = await run(tmp_path, "show", "ceo", **settings)
    assert status == 0
    assert re.search(r"evaluation loss +│ 0\.\d+, 0\.\d+ without the adapter", shown)

    status, compared = await run(tmp_path, "compare", "ceo", "cfo", "--data", str(data["ceo"]), **settings)
    assert status == 0, compared
    losses = {name: float(loss) for name, loss in re.findall(r"│ (base model|ceo|cfo) +│ ([\d.]+) ", compared)}
    assert losses["ceo"] < losses["base model"] < losses["cfo"]

    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aos", "adapters", "serve", "--port", "0"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1", **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert server.stdout is not None
    try:
        async with asyncio.timeout(60):
            while (found := re.search(rb"Serving (.*) at (http://\S+)", await server.stdout.readline())) is None:
                pass
        assert found[1] == b"llama-3.3-70b, llama-3.3-70b-ceo, llama-3.3-70b-cfo"
        async with httpx2.AsyncClient(timeout=30) as client:
            asked = {"messages": [{"role": "user", "content": ROLES["cfo"][0][0]}], "model": "llama-3.3-70b-cfo"}
            answer = await client.post(f"{found[2].decode()}/chat/completions", json=asked)
        assert answer.json()["choices"][0]["message"]["content"] == ROLES["cfo"][0][1]
    finally:
        server.terminate()
        await server.wait()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "ceo", "--data", "nowhere.jsonl"), "AOS_BASE_MODEL"),
        (("train", "ceo", "--data", "nowhere.jsonl", "--base", "x"), "No such file"),
        (("train", "../ceo", "--data", "bad.jsonl", "--base", "x"), "adapter"),
        (("train", "ceo", "--data", "bad.jsonl", "--base", "x"), "line 2"),
        (("show", "ceo"), "has no adapter 'ceo'"),
        (("evaluate", "ceo", "--data", "bad.jsonl"), "has no adapter 'ceo'"),
        (("serve",), "AOS_BASE_MODEL"),
    ],
)
async def test_a_mistake_is_one_line_and_status_2(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    (tmp_path / "bad.jsonl").write_text(f"{good}\n{{}}\n")
    status, output = await run(tmp_path, *arguments, AOS_BASE_MODEL="")
    assert status == 2
    assert said in output
    assert "Traceback" not in output
