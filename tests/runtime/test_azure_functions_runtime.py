"""The binding as application code uses it; what the worker makes of it is in test_conformance."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
from azure.functions.decorators.function_app import Function

from runtime import (
    AuthLevel,
    Headers,
    Request,
    RouteError,
    RouteRegistry,
    RuntimeConfig,
    RuntimeConfigError,
    create_runtime,
)
from tests.functions_worker import FunctionsWorker, WorkerError

SIMPLE_APP = """
import azure.functions as func
from runtime import AuthLevel, HttpMethod, RouteRegistry, RuntimeConfig, create_runtime, route

config = RuntimeConfig(app_name="MySimpleApp", app_version="1.0.0", auth_level="FUNCTION")
registry = RouteRegistry()

@route(registry, "api/ping", methods=[HttpMethod.GET])
async def ping(req: func.HttpRequest):
    return func.HttpResponse('{"message": "pong"}', mimetype="application/json")

async def health_handler(req):
    return {"status": "healthy"}

registry.register("health", health_handler, auth_level=AuthLevel.ANONYMOUS)

runtime = create_runtime(config, registry)
runtime.register_routes_to_azure_functions()
runtime.create_startup_function()
app = runtime.get_func_app()
"""

FAILING_APP = """
from pathlib import Path
from runtime import RouteRegistry, RuntimeConfig, create_runtime

FOLDER = Path(__file__).parent

async def initialize():
    with (FOLDER / "starts").open("a") as starts:
        starts.write("x")
    if not (FOLDER / "database").exists():
        raise RuntimeError("SHOP_DATABASE is not set")
    return "started"

async def show(req):
    return req.app

async def on_message(message):
    print("printed, and harmless")

runtime = create_runtime(RuntimeConfig(), app_initializer=initialize)
runtime.route_registry.register("show", show)
runtime.route_registry.register_queue("%ORDERS%", on_message, connection="BUS")
runtime.create_startup_function()
app = runtime.get_func_app()
"""


async def test_the_documented_app_runs_as_written(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text(SIMPLE_APP)
    async with FunctionsWorker(tmp_path) as worker:
        assert sorted(worker.functions) == ["get_health", "get_ping", "openapi", "warmup"]
        status, headers, body = await worker.invoke_http("get_ping")
        assert (status, headers["content-type"], body) == (200, "application/json", b'{"message": "pong"}')
        assert (await worker.invoke_http("get_health"))[2] == b'{"status":"healthy"}'


async def test_an_initializer_that_fails_is_tried_again_by_each_kind_of_invocation(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text(FAILING_APP)
    environ = {"ORDERS": "orders", "BUS": "Endpoint=sb://127.0.0.1/"}
    async with FunctionsWorker(tmp_path, environ=environ) as worker:
        assert worker.functions["ORDERS"].trigger["queueName"] == "%ORDERS%"
        with pytest.raises(WorkerError, match="NotReady: RuntimeError: SHOP_DATABASE is not set"):
            await worker.invoke_warmup()
        for _ in range(3):
            status, headers, body = await worker.invoke_http("get_show")
            assert (status, int(headers["retry-after"]) >= 1) == (503, True)
            assert b"SHOP_DATABASE is not set" in body
        # The message waits for further attempts, at their own pace.
        starts = tmp_path / "starts"
        before = starts.stat().st_size
        delivered = asyncio.create_task(worker.invoke_service_bus("ORDERS", b"x"))
        async with asyncio.timeout(30):
            while starts.stat().st_size == before:  # noqa: ASYNC110  # another process writes it
                await asyncio.sleep(0.01)
        (tmp_path / "database").touch()
        await delivered
        assert (await worker.invoke_http("get_show"))[2] == b"started"
        assert "printed, and harmless" in worker.log()


async def show(request: Request) -> str:
    return request.method


def trigger_of(function: Function) -> dict[str, Any]:  # the SDK's own type
    trigger = function.get_trigger()
    assert trigger is not None
    return trigger.get_dict_repr()


def test_routes_registered_later_are_bound_once() -> None:
    registry = RouteRegistry()
    runtime = create_runtime(RuntimeConfig(), registry)
    registry.register("a", show)
    runtime.register_routes_to_azure_functions()
    registry.register("b", show)
    runtime.create_startup_function()
    runtime.create_startup_function()
    app = runtime.get_func_app()
    assert app is runtime.get_func_app()
    assert sorted(str(function.get_function_name()) for function in app.get_functions()) == [
        "get_a",
        "get_b",
        "openapi",
        "warmup",
    ]


def test_without_a_registry_the_configured_level_is_the_default() -> None:
    runtime = create_runtime(RuntimeConfig(auth_level="ANONYMOUS"))
    runtime.route_registry.register("a", show)
    (function, _) = runtime.get_func_app().get_functions()
    assert trigger_of(function)["authLevel"] is func.AuthLevel.ANONYMOUS
    assert runtime.app_instance is None


def test_head_is_left_to_a_route_of_its_own() -> None:
    registry = RouteRegistry()
    registry.register("a", show)
    registry.register("a", show, ["HEAD"])
    functions = create_runtime(RuntimeConfig(), registry).get_func_app().get_functions()
    methods = {f.get_function_name(): [m.value for m in trigger_of(f)["methods"]] for f in functions}
    rest = ["DELETE", "OPTIONS", "PATCH", "POST", "PUT"]
    assert methods == {"get_a": ["GET", *rest], "head_a": ["HEAD"], "openapi": ["GET", "HEAD", *rest]}


def test_what_lets_other_methods_through_has_the_level_of_its_route() -> None:
    registry = RouteRegistry()
    registry.register("a", show, auth_level=AuthLevel.FUNCTION)
    registry.register("a", show, ["POST"], AuthLevel.ANONYMOUS)
    registry.register("b", show, auth_level=AuthLevel.ADMIN)
    functions = create_runtime(RuntimeConfig(), registry).get_func_app().get_functions()
    triggers = {f.get_function_name(): trigger_of(f) for f in functions}
    levels = {
        name: trigger["authLevel"]
        for name, trigger in triggers.items()
        if "PUT" in [method.value for method in trigger["methods"]]
    }
    key, nobody = func.AuthLevel.FUNCTION, func.AuthLevel.ANONYMOUS
    assert levels == {"get_a": key, "get_b": key, "openapi": nobody}


def test_a_method_that_is_refused_already_is_an_error() -> None:
    registry = RouteRegistry()
    runtime = create_runtime(RuntimeConfig(), registry)
    registry.register("items/{id}", show)
    runtime.get_func_app()
    registry.register("others/{id}", show, ["POST"])
    runtime.get_func_app()
    registry.register("items/{name}", show, ["PUT"])
    with pytest.raises(RouteError, match="PUT of its path came after get_func_app"):
        runtime.get_func_app()


def test_a_switched_off_host_is_an_error_that_names_the_key() -> None:
    runtime = create_runtime(RuntimeConfig(azure_functions_enabled=False))
    with pytest.raises(RuntimeConfigError, match="azure_functions_enabled"):
        runtime.get_func_app()


def test_the_function_app_needs_no_asgi_server_and_no_bus_client() -> None:
    probe = (
        "import sys, runtime.azure_functions_runtime as r; print([m for m in sys.modules if m.split('.')[0] in "
        "('starlette', 'uvicorn', 'croniter') or m.startswith(('azure.servicebus', 'azure.identity'))])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_a_stream_too_long_to_buffer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime import azure_functions_runtime
    from runtime.encoding import Answer
    from runtime.invocation import Inbound

    monkeypatch.setattr(azure_functions_runtime, "MAX_BUFFERED_STREAM_BYTES", 10)
    closed = False

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield b"abcd"
        finally:
            closed = True

    async def no_body(limit: int) -> bytes:
        return bytes(limit)[:0]

    runtime = create_runtime(RuntimeConfig())
    answer = await runtime._buffered(Answer(200), pieces(), Inbound("GET", "", "", Headers(), {}, no_body))
    assert (answer.status, closed) == (500, True)


BROKEN_APP = """
from runtime import RouteRegistry, RuntimeConfig, create_runtime

registry = RouteRegistry()

async def handler(req, extra):
    return extra

registry.register("admin/keys", handler)
registry.register_queue("orders", lambda message: None, connection="NO_SUCH_SETTING")
registry.register("items/{id}", lambda req: "", name="a")
registry.register("items/recent", lambda req: "", name="b")
app = create_runtime(RuntimeConfig(), registry).get_func_app()
"""

TWO_APPS = """
from runtime import RuntimeConfig, create_runtime

first = create_runtime(RuntimeConfig()).get_func_app()
second = create_runtime(RuntimeConfig()).get_func_app()
"""


async def test_all_mistakes_are_one_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text(BROKEN_APP)
    with pytest.raises(WorkerError) as caught:
        async with FunctionsWorker(tmp_path):
            pass
    told = str(caught.value)
    at = str(tmp_path / "function_app.py")
    assert "4 mistakes in the routes" in told
    assert f"keeps paths under 'admin' and 'runtime' for itself [{at}:9; handler {at}:6]" in told
    assert "must take exactly one argument, but its signature is (req, extra)" in told
    assert f"neither NO_SUCH_SETTING nor NO_SUCH_SETTING__fullyQualifiedNamespace is set [{at}:10]" in told
    assert "on Azure Functions 'items/{id}' (a) takes its requests" in told


async def test_two_apps_in_one_module_are_an_error_that_names_the_other(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text(TWO_APPS)
    with pytest.raises(WorkerError) as caught:
        async with FunctionsWorker(tmp_path):
            pass
    assert "there is another one already, first; the host takes one app" in str(caught.value)
    assert f"[{tmp_path / 'function_app.py'}:5]" in str(caught.value)
