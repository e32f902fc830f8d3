"""What publishing uploads: the right files, installed from requirements.txt alone, run by the code that Azure runs."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from packaging.requirements import Requirement
from pathspec import GitIgnoreSpec

from emulators.child import Child
from emulators.ports import settle
from tests.e2e.harness import World, world
from tests.functions_worker import FunctionsWorker
from tests.publish.image import Image
from tests.publish.staging import PACKAGES, ROOT, install_command, published_files, stage

MCP = {"health", "mcp_servers", "mcp_server_status", "on_mcp_request", "on_mcp_command", "openapi", "warmup"}
AGENTS_ONLY = {
    *("agent_list", "agent", "agent_status", "ask", "operation", "cancel", "command_agent", "reload_registry"),
    *("approvals", "decide", "on_agent_event", "on_mcp_response", "on_agent_command", "sweep", "reconcile"),
    *(
        "conversation",
        "delete_conversation",
        "begin_workflow",
        "workflow",
        "cancel_workflow",
        "query",
        "on_aos_request",
        "purge",
        "schedules",
    ),
}
SHARED = {"health", "mcp_servers", "mcp_server_status", "openapi", "warmup"}

# --- which files


def test_the_package_holds_the_app_and_nothing_else() -> None:
    files = {path.as_posix() for path in published_files()}
    assert {"function_app.py", "host.json", "requirements.txt", "agent_registry.json"} <= files
    assert {path.split("/")[0] for path in files if "/" in path} == {"aos", "examples", "runtime"}
    assert {path for path in files if path.endswith((".pyc", ".md")) or "local.settings" in path} == set()
    tops = {path for path in files if "/" not in path}
    assert tops == {
        *("function_app.py", "host.json", "requirements.txt"),
        *("agent_registry.json", "mcp_server_registry.json"),
    }


def test_what_a_developer_has_lying_about_stays_behind(tmp_path: Path) -> None:
    (tmp_path / ".funcignore").write_text((ROOT / ".funcignore").read_text(encoding="utf-8"), encoding="utf-8")
    for path in (
        *("function_app.py", "aos/app.py", ".python_packages/lib/site-packages/six.py"),
        *("local.settings.json", ".env", ".git/config", ".venv/bin/python", "aos/__pycache__/app.pyc", "infra/a.bicep"),
        *("tests/test_app.py", ".aos/state.db", "node_modules/x/index.js", "agent.egg-info/PKG-INFO", "docs/deploy.md"),
        "adapters/ceo/adapter_model.safetensors",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert {path.as_posix() for path in published_files(tmp_path)} == {
        *("function_app.py", "aos/app.py", ".python_packages/lib/site-packages/six.py")
    }


def test_every_pattern_means_something() -> None:
    lines = (ROOT / ".funcignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert len(patterns) == len(set(patterns))
    # Azure's tools know no pattern that git does not.
    assert all(pattern.include is not None for pattern in GitIgnoreSpec.from_lines(patterns).patterns)


# --- requirements.txt


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_requirements_fit_remote_build(version: str) -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    # Relative paths, `-e` and `-r` break remote build, which sees this file alone.
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    environment = {"python_version": version, "python_full_version": f"{version}.1", "sys_platform": "linux"}
    active = [found for found in requirements if found.marker is None or found.marker.evaluate(environment)]
    names = [found.name for found in active]
    assert len(names) == len(set(names))
    assert "azure-functions-worker" not in names  # the platform brings its own
    for found in active:
        assert found.url is None
        operators = {specifier.operator for specifier in found.specifier}
        assert operators & {">=", "=="}, f"{found} has no lower bound"
        assert operators & {"<", "=="}, f"{found} has no upper bound"
    (functions,) = [found for found in active if found.name == "azure-functions"]
    # 1.x ends with Python 3.12, 2.x begins with 3.13.
    assert functions.specifier.contains("2.3.0") == (version == "3.13")
    assert functions.specifier.contains("1.26.0") == (version != "3.13")


# --- installed and run


@dataclass(frozen=True)
class Published:
    """A package as it lies in Azure: the app's files, beside them what remote build installed."""

    folder: Path
    python: Path
    worker: Path

    def start(self, **settings: str) -> FunctionsWorker:
        """The worker, with no package on its path but those of the app and its own."""
        path = [self.folder / PACKAGES, self.worker, self.folder]
        # Nothing of the developer's settings may reach it.
        environ = dict.fromkeys(("AZURE_STORAGE_CONNECTION_STRING", "AZURE_SERVICE_BUS_CONNECTION_STRING"), "")
        return FunctionsWorker(self.folder, python=self.python, python_path=path, environ={**environ, **settings})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("package")
    size = stage(folder)
    began = time.monotonic()
    subprocess.run(install_command(folder / "requirements.txt", folder / PACKAGES), check=True, timeout=540)
    took = time.monotonic() - began
    # An interpreter without any package, so that only what was installed for the app is found.
    fresh = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(fresh)], check=True, timeout=60)
    worker = tmp_path_factory.mktemp("worker")
    spec = importlib.util.find_spec("azure_functions_runtime")
    assert spec is not None
    assert spec.submodule_search_locations
    (worker / "azure_functions_runtime").symlink_to(spec.submodule_search_locations[0])
    installed = sum(file.stat().st_size for file in (folder / PACKAGES).rglob("*") if file.is_file())
    print(f"\npackage {size >> 10} KiB zipped, its requirements {installed >> 20} MiB, installed in {took:.0f} s")
    return Published(folder, fresh / "bin" / "python", worker)


@pytest_asyncio.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("world")) as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_package_is_indexed_and_answers(published: Published) -> None:
    for attempt in ("first", "second"):  # the first start writes the byte code
        began = time.monotonic()
        async with published.start() as worker:
            print(f"{attempt} start: indexed after {time.monotonic() - began:.2f} s")
            assert set(worker.functions) == MCP | AGENTS_ONLY
    async with published.start() as worker:
        status, _, body = await worker.invoke_http("health", url="http://localhost/api/health")
        health = json.loads(body)
        # Without storage nothing can be accepted, and the app says so instead of failing to start.
        assert (status, health["status"], health["active_agents"]) == (503, "unhealthy", 5)
        assert "AZURE_STORAGE_CONNECTION_STRING is not set" in health["checks"]["storage"]["detail"]
        status, headers, body = await worker.invoke_http(
            "ask",
            "POST",
            "http://localhost/api/agents/ceo",
            body=b'{"message": "hi"}',
            route_params={"agent_id": "ceo"},
        )
        assert (status, headers["content-type"]) == (503, "application/problem+json")
        assert json.loads(body)["code"] == "bad_setting"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_package_answers_with_a_tool_s_result(published: Published, running: World) -> None:
    body = json.dumps({"message": "What was our revenue in Q3 2025?", "timeout_seconds": 60}).encode()
    # The app beside it serves the tools, as a second function app would.
    settings = {**running.stack.environment, "AOS_ROLES": "agents"}
    headers = {"idempotency-key": "the-first-answer"}
    async with published.start(**settings) as worker, asyncio.timeout(300):
        while True:
            status, said, answer = await worker.invoke_http(
                "ask", "POST", "http://localhost/api/agents/ceo", headers, body, {"agent_id": "ceo"}
            )
            if status != 503:
                break
            # Without byte code an import may take longer than a connection to storage is waited for: it says when to
            # ask again.
            await asyncio.sleep(int(said["retry-after"]))
    told = json.loads(answer)
    assert status == 200, told
    assert (told["status"], told["tool_calls"][0]["status"]) == ("completed", "succeeded")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_roles_split_the_functions_between_two_apps(published: Published) -> None:
    async def functions(role: str) -> set[str]:
        async with published.start(AOS_ROLES=role) as worker:
            return set(worker.functions)

    agents, mcp = await asyncio.gather(functions("agents"), functions("mcp"))
    assert agents == AGENTS_ONLY | SHARED
    assert mcp == MCP
    # What only one app may have, so that nothing is received twice, and all of it once.
    assert agents & mcp == SHARED


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_import_of_the_package_is_there(published: Published) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = {Requirement(line).name for line in project["optional-dependencies"]["ml"]}  # of the command line
    named = {name for path in published_files() for name in _imports(path) if name.split(".")[0] not in extra}
    extras = ("azure.ai.ml", "opentelemetry.exporter")  # of `azureml` and `telemetry`
    wanted = sorted(name for name in named if not name.startswith(extras))
    assert {"azure.servicebus.aio", "openai", "mcp"} <= set(wanted)
    code = f"import sys; sys.path[:0] = {[str(published.folder), str(published.folder / PACKAGES)]!r}\n"
    code += f"from importlib.util import find_spec\nprint([name for name in {wanted} if find_spec(name) is None])"
    done = subprocess.run(
        [published.python, "-I", "-c", code], cwd=published.folder, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_container_serves(published: Published, running: World, tmp_path: Path) -> None:
    image = Image.of(ROOT / "Dockerfile")
    image.copy_into(tmp_path)
    settings = {
        **image.environment,
        **running.stack.environment,
        "PATH": f"{published.python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(published.folder / PACKAGES),
        "AOS_HOST": "127.0.0.1",
        "AOS_PORT": str(settle({"AOS_PORT": ("AOS", 0)})["AOS_PORT"]),
        "AOS_FUNCTION_KEY": "a key, as the image refuses to serve without",
    }
    child = Child("container", image.command, env=settings, grace=30.0, log=tmp_path / "log", cwd=tmp_path)
    ready = child.line(r"serving AOS on http://\S+")
    await child.start()
    try:
        await child.ready(ready, 60)
        async with asyncio.timeout(90):  # it begins as 503, while storage and bus are opened
            while True:
                if await _status(image.health_check, settings) == 0:
                    break
                await asyncio.sleep(0.5)
    finally:
        await child.stop()
        ended = await child.wait()
    assert ended == 0
    assert await _status(image.health_check, settings) != 0


async def _status(command: Sequence[str], settings: Mapping[str, str]) -> int:
    process = await asyncio.create_subprocess_exec(*command, env=settings, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()


def _imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, also those that it imports late."""
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
