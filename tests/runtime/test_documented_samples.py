"""Every code sample of docs/runtime-library.md, from its text; those that make a function app under the worker code."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import RouteRegistry, RuntimeConfig, load_runtime_config
from tests.functions_worker import FunctionsWorker
from tests.model_server import model_server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runtime-library.md").read_text()
SAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SCHEMA = re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0]


def sample(contains: str) -> str:
    found: list[str] = [text for text in SAMPLES if contains in text]
    assert len(found) == 1, contains
    return found[0]


async def run(text: str, **names: object) -> dict[str, object]:
    """The sample's names after it ran; it may await."""
    known: dict[str, object] = {"__name__": "sample", **names}
    code = compile(text, "sample", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, known)  # noqa: S307  # our own documentation
    if inspect.isawaitable(result):
        await result
    return known


def test_every_sample_is_tested() -> None:
    tested = Path(__file__).read_text()
    calls = re.findall(r"""sample\((?:"([^"\n]+)"|'([^'\n]+)')\)""", tested)
    used = {sample(double or single) for double, single in calls}
    assert used == set(SAMPLES)


async def test_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(SCHEMA)
    known = await run(sample('from_json("config.json")'))
    config = known["config"]
    assert isinstance(config, RuntimeConfig)
    assert config.custom_config == {"my_setting": "value", "another_setting": 123}
    # The schema, key for key, and what wins over what.
    assert RuntimeConfig.from_json("config.json").model_dump(mode="json") == json.loads(SCHEMA)
    merged = load_runtime_config(
        "config.json",
        {"app_name": "FromDict", "custom_config": {"deep": {"a": 1}}},
        {"APP_NAME": "FromEnvironment", "MAX_RETRIES": "7"},
    )
    assert (merged.app_name, merged.max_retries, merged.app_version) == ("FromDict", 7, "1.0.0")
    assert merged.custom_config == {"your_custom_settings": "here", "deep": {"a": 1}}


async def test_routes() -> None:
    known = await run(sample("goodbye_handler"))
    registry = known["registry"]
    assert isinstance(registry, RouteRegistry)
    registry.check({})
    assert [route.path for route in registry.http_routes] == ["hello", "goodbye"]


async def test_queues_of_a_storage_account() -> None:
    known = await run(sample("register_storage_queue"))
    registry = known["registry"]
    assert isinstance(registry, RouteRegistry)
    registry.check({"AzureWebJobsStorage": "x"})
    assert [route.queue for route in registry.storage_routes] == ["work-items"]


async def test_agents() -> None:
    async with model_server() as model:
        settings = {"base_url": model.url, "model": "llama-3.3-70b"}
        config = RuntimeConfig(custom_config={"agent_framework": settings})
        known = await run(sample("af_runtime").replace("{...}", '{"instructions": "Be brief."}'), config=config)
        agent, runtime = known["agent"], known["af_runtime"]
        answer = await agent.run("Hi?")  # type: ignore[attr-defined]  # what the sample made
        assert answer.text == "Done."
        await runtime.close()  # type: ignore[attr-defined]  # what the sample made


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


async def invoke(folder: Path, *names: str) -> tuple[set[str], list[bytes]]:
    """The functions of the app in a folder, and the answers of some."""
    async with FunctionsWorker(folder) as worker:
        answers = [await worker.invoke_http(name) for name in names]
        assert [status for status, _, _ in answers] == [200] * len(names), answers
        return set(worker.functions) - {"openapi"}, [body for _, _, body in answers]


async def test_a_function_app_with_a_health_of_its_own(tmp_path: Path) -> None:
    text = "class MyApp: pass\n" + sample("initialize_app()")
    write(tmp_path, {"function_app.py": text})
    assert await invoke(tmp_path, "get_health") == ({"get_health"}, [b'{"status":"healthy"}'])


async def test_the_simple_app(tmp_path: Path) -> None:
    write(tmp_path, {"function_app.py": sample("MySimpleApp")})
    assert await invoke(tmp_path, "get_ping") == ({"get_ping", "warmup"}, [b'{"message": "pong"}'])


LOGIC = """
class MyApplication:
    def __init__(self, config):
        self.name = config.app_name
    async def start(self):
        self.started = True
"""
SEVERAL = """
async def show(req):
    return {"app": req.app.name, "started": req.app.started, "instance": runtime.app_instance is req.app}

async def change(req):
    return {"changed": req.route_params["id"]}

registry.register("things/{id}", show)
registry.register("things/{id}", change, methods=["POST", "PUT"])
app = runtime.get_func_app()
"""


async def test_an_app_with_initialization_several_routes_and_one_path_for_different_methods(tmp_path: Path) -> None:
    files = {"config/app_config.json": SCHEMA, "my_app_logic.py": LOGIC}
    write(tmp_path, {**files, "function_app.py": sample("my_app_logic") + SEVERAL})
    async with FunctionsWorker(tmp_path) as worker:
        answers = []
        for method in ("GET", "POST", "PUT"):
            name, params = worker.match(method, "/api/things/7") or ("", {})
            answers.append(await worker.invoke_http(name, method, route_params=params))
        assert [body for _, _, body in answers] == [
            b'{"app":"MyApp","started":true,"instance":true}',
            b'{"changed":"7"}',
            b'{"changed":"7"}',
        ]


BUSINESS = {
    "src/__init__.py": "",
    "src/business_infinity.py": "async def create_business_infinity(config):\n    return dict(config, built=True)\n",
    "src/bi_config.py": 'def load_bi_config():\n    return {"boardroom": {"seats": 5}}\n',
    "src/routes.py": """
def register_bi_routes(registry, app_instance):
    async def board(req):
        return {"given": app_instance, "built": req.app["built"], "seats": req.app["boardroom"]["seats"]}
    registry.register("board", board)
""",
}


async def test_routes_registered_later_are_served_without_a_further_call(tmp_path: Path) -> None:
    write(tmp_path, {**BUSINESS, "function_app.py": sample("create_business_infinity")})
    names, (answer,) = await invoke(tmp_path, "get_board")
    assert names == {"get_board"}
    assert json.loads(answer) == {"given": None, "built": True, "seats": 5}


async def test_before_and_after(tmp_path: Path) -> None:
    write(tmp_path / "before", {"function_app.py": sample("async def health(req: func.HttpRequest)")})
    write(tmp_path / "after", {"function_app.py": sample('return {"status": "ok"}')})
    before, after = await asyncio.gather(
        invoke(tmp_path / "before", "health"), invoke(tmp_path / "after", "get_health")
    )
    assert (before[1], after[1]) == ([b"OK"], [b'{"status":"ok"}'])


async def test_a_test_of_routes_runs_without_a_host(tmp_path: Path) -> None:
    (tmp_path / "test_my_app.py").write_text(sample("test_route_registration"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_mode=auto",
        "test_my_app.py",
    ]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
