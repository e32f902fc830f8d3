"""Adapters behind an OpenAI-compatible server, asked with the official client; and the whole circle."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import openai
import pytest
import uvicorn

from aos.agents import PurposeDrivenAgentFoundry
from aos.config import load_settings
from aos.lora.folder import newest
from aos.lora.inference import AdapterModel
from aos.lora.job import TrainingJob
from aos.lora.process import run_training
from aos.lora.serving import adapter_app, deployments
from emulators.foundry import FoundryEmulator
from tests.lora.tiny import ROLES, write_data

pytestmark = [
    pytest.mark.ml,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]
ASKED = ROLES["ceo"][0][0]


def instructions(role: str) -> str:
    return PurposeDrivenAgentFoundry(role, "Lead.").instructions


@pytest.fixture(scope="module")
async def home(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of two agents, trained on what these agents are told and should say."""
    folder = tmp_path_factory.mktemp("home")
    for role in ROLES:
        await run_training(
            TrainingJob.read(
                role,
                {
                    "model_name": str(base),
                    "data_path": str(write_data(folder / f"{role}.jsonl", role, system=instructions(role))),
                    "output_dir": str(folder / "adapters"),
                    "max_steps": 40,
                    "epochs": 100,
                    "learning_rate": 0.01,
                    "batch_size": 4,
                },
                {"r": 8, "target_modules": ["q_proj", "v_proj", "gate_proj", "down_proj"]},
            )
        )
    return folder / "adapters"


@pytest.fixture(scope="module")
async def url(base: Path, home: Path) -> AsyncIterator[str]:
    folders = newest(home)
    model = await asyncio.to_thread(AdapterModel, str(base), folders)
    async with served(model, folders) as url:
        yield url


@asynccontextmanager
async def served(model: AdapterModel, folders: dict[str, Path]) -> AsyncIterator[str]:
    app = adapter_app(model, deployments("llama-3.3-70b", folders), max_tokens=60)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    await task


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def messages(role: str) -> list[openai.types.chat.ChatCompletionMessageParam]:
    return [{"role": "system", "content": instructions(role)}, {"role": "user", "content": ASKED}]


async def test_base_and_adapters_are_models_of_the_server(client: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    assert listed == ["llama-3.3-70b", "llama-3.3-70b-ceo", "llama-3.3-70b-cfo"]


async def test_each_model_answers_from_its_own_adapter(client: openai.AsyncOpenAI) -> None:
    async def said(role: str) -> str | None:
        answer = await client.chat.completions.create(model=f"llama-3.3-70b-{role}", messages=messages(role))
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        return answer.choices[0].message.content

    # All at once: a generation must not see another one's adapter.
    roles = ["ceo", "cfo"] * 3
    assert await asyncio.gather(*map(said, roles)) == [ROLES[role][0][1] for role in roles]


async def test_an_answer_is_streamed(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="llama-3.3-70b-cfo", messages=messages("cfo"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == ROLES["cfo"][0][1]
    assert len([piece for piece in pieces if piece]) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None


async def test_an_answer_that_is_cut_says_so(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="llama-3.3-70b-ceo", messages=messages("ceo"), max_tokens=3, temperature=0.7, top_p=0.9
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_who_hangs_up_frees_the_model(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="llama-3.3-70b",
        messages=[{"role": "user", "content": "x"}],
        stream=True,
        max_tokens=30_000,
        temperature=2,
    )
    await anext(aiter(stream))
    await stream.close()
    async with asyncio.timeout(20):
        await client.chat.completions.create(model="llama-3.3-70b-ceo", messages=messages("ceo"))


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"not json", 400, "Invalid JSON"),
        (b"{}", 400, "model: Field required"),
        (b'{"model": "llama-3.3-70b", "messages": []}', 400, "messages: "),
        (b'{"model": "llama-3.3-70b", "messages": [{}], "temperature": 9}', 400, "temperature: "),
        (b'{"model": "llama-3.3-70b", "messages": [{}], "max_tokens": 100000}', 400, "max_tokens: "),
        (b'{"model": "gpt", "messages": [{"role": "user", "content": "x"}]}', 404, "Served: llama-3.3-70b, "),
        (b" " * 5_000_000, 413, "at most 4194304"),
    ],
)
async def test_a_wrong_request_says_what_is_wrong(url: str, body: bytes, status: int, said: str) -> None:
    async with httpx2.AsyncClient() as client:
        answer = await client.post(f"{url}/chat/completions", content=body)
        assert answer.status_code == status
        assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_that_is_too_long_is_refused(client: openai.AsyncOpenAI, stream: bool) -> None:
    asked: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "x" * 2048}]
    with pytest.raises(openai.BadRequestError, match="maximum context length is 2048 tokens") as error:
        await client.chat.completions.create(model="llama-3.3-70b-ceo", messages=asked, stream=stream)
    assert error.value.code == "context_length_exceeded"


async def test_more_than_the_bound_are_refused(client: openai.AsyncOpenAI, url: str) -> None:
    asked = {
        "model": "llama-3.3-70b",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 100,
        "temperature": 2,
    }
    # So many that however late they arrive, the model cannot be done with all the others.
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=100, limits=limits) as http:
        answers = await asyncio.gather(*(http.post(f"{url}/chat/completions", json=asked) for _ in range(120)))
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 429)


async def test_the_whole_circle(url: str) -> None:
    """Trained, served, behind Foundry under the deployment's name: the agent answers from its own adapter."""
    async with FoundryEmulator(model=url) as emulator:
        settings = load_settings({"AZURE_AI_PROJECT_ENDPOINT": emulator.endpoint, "AZURE_AI_API_KEY": "local"})
        for role, talks in ROLES.items():
            async with PurposeDrivenAgentFoundry(role, "Lead.", settings=settings) as agent:
                operation = await agent.turn(ASKED)
                assert operation.error is None
                assert ((operation.reply or "").strip(), operation.model) == (talks[0][1], f"llama-3.3-70b-{role}")
