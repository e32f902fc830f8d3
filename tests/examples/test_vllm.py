"""One base and many adapters: the script's names reach the endpoint, through the emulator and the custom runtime."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aos.agents import PurposeDrivenAgent, PurposeDrivenAgentFoundry
from aos.config import load_settings
from emulators.foundry import FoundryEmulator
from tests.model_server import ModelServer, model_server

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples/vllm/serve.sh"


def command(*arguments: str, **environment: str) -> list[str]:
    """The command that the script would run."""
    path = {"PATH": os.environ["PATH"], "DRY_RUN": "1"}
    done = subprocess.run([SCRIPT, *arguments], env=path | environment, capture_output=True, text=True, check=True)
    return shlex.split(done.stdout)


def names(arguments: list[str]) -> list[str]:
    """What vLLM would serve: the base and the adapters."""
    modules = arguments[arguments.index("--lora-modules") + 1 :]
    adapters = [module.partition("=")[0] for module in modules if not module.startswith("-")]
    return [arguments[arguments.index("--served-model-name") + 1], *adapters]


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[ModelServer]:
    """An endpoint that serves what the script names, and nothing else."""
    async with model_server() as model:
        model.models = names(command("ceo=/adapters/ceo", "cfo=/adapters/cfo"))
        yield model


def test_the_script_runs_the_documented_command() -> None:
    (documented,) = [
        block
        for block in re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/vllm.md").read_text(), re.MULTILINE | re.DOTALL)
        if block.startswith("vllm serve")
    ]
    assert sorted(command("ceo=/adapters/ceo", "cfo=/adapters/cfo")) == sorted(
        shlex.split(documented.replace("\\\n", " "))
    )


def test_the_script_can_be_told_otherwise() -> None:
    told = command("a=/x y/a", "--", "--seed", "1", AZURE_AI_MODEL_DEPLOYMENT="qwen", RANK="64", MODEL="Qwen/Q")
    assert told[:5] == ["vllm", "serve", "Qwen/Q", "--served-model-name", "qwen"]
    assert told[-2:] == ["--seed", "1"]
    assert "qwen-a=/x" in told
    assert told[told.index("--max-lora-rank") + 1] == "64"


@pytest.mark.parametrize("arguments", [[], ["ceo"], ["=/a"], ["--", "ceo=/a"]])
def test_the_script_refuses_what_names_no_adapter(arguments: list[str]) -> None:
    done = subprocess.run([SCRIPT, *arguments], env={"DRY_RUN": "1"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr


async def test_the_custom_runtime_asks_for_the_adapters(served: ModelServer) -> None:
    settings = load_settings({"USE_FOUNDRY_RUNTIME": "false", "AOS_MODEL_ENDPOINT": served.url})
    served.asked.clear()
    for domain in ("ceo", "cfo"):
        async with PurposeDrivenAgent(f"the-{domain}", "Lead.", adapter_name=domain, settings=settings) as agent:
            operation = await agent.turn("Hi?")
            assert (operation.reply, operation.model) == ("Done.", f"llama-3.3-70b-{domain}")
    assert [asked["model"] for asked in served.asked] == ["llama-3.3-70b-ceo", "llama-3.3-70b-cfo"]
    async with PurposeDrivenAgent("the-cto", "Lead.", adapter_name="cto", settings=settings) as agent:
        operation = await agent.turn("Hi?")
        assert operation.error is not None
        assert operation.error.code == "deployment_not_found"
        assert "llama-3.3-70b, llama-3.3-70b-ceo, llama-3.3-70b-cfo" in operation.error.detail


async def test_the_emulator_forwards_to_the_adapters(served: ModelServer) -> None:
    served.asked.clear()
    async with FoundryEmulator(model=served.url) as emulator:
        settings = load_settings({"AZURE_AI_PROJECT_ENDPOINT": emulator.endpoint, "AZURE_AI_API_KEY": "local"})
        for domain in ("ceo", "cfo"):
            agent = PurposeDrivenAgentFoundry(f"the-{domain}", "Lead.", adapter_name=domain, settings=settings)
            async with agent:
                operation = await agent.turn("Hi?")
                assert ((operation.reply or "").strip(), operation.status) == ("Done.", "completed")
    assert [asked["model"] for asked in served.asked] == ["llama-3.3-70b-ceo", "llama-3.3-70b-cfo"]
