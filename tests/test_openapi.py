"""The API description of AOS: there without any setting, valid, and complete."""

from __future__ import annotations

import json

import httpx2
from openapi_spec_validator import OpenAPIV31SpecValidator

from aos.app import routes
from aos.config import load_settings
from runtime import AsgiRuntime, Keys, RuntimeConfig
from tests.e2e.harness import ROOT
from tests.functions_worker import FunctionsWorker

METHODS = ("get", "post", "delete")


async def fail_to_start() -> None:
    raise RuntimeError("no storage")


async def test_it_is_served_alike_by_both_runtimes_without_settings_even_if_the_app_cannot_start() -> None:
    runtime = AsgiRuntime(
        RuntimeConfig(app_name="AOS"), routes(load_settings()), fail_to_start, keys=Keys(), settings={}
    )
    transport = httpx2.ASGITransport(runtime.app, client=("203.0.113.9", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://aos.example") as client:
        answer = await client.get("/api/openapi.json")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert (await client.get("/api/agents")).status_code == 401
    async with FunctionsWorker(ROOT) as worker:
        status, _, body = await worker.invoke_http("openapi")
        assert (status, json.loads(body)) == (200, answer.json())
        anonymous = {n for n, f in worker.functions.items() if f.trigger.get("authLevel") == "ANONYMOUS"}
        assert anonymous == {"health", "openapi"}
    document = answer.json()
    OpenAPIV31SpecValidator(document).validate()
    for path, item in document["paths"].items():
        for method in METHODS:
            if (operation := item.get(method)) is not None:
                where = f"{method} {path}"
                assert operation["summary"], where
                assert operation["tags"], where
                good = [answer for status, answer in operation["responses"].items() if status in ("200", "202")]
                assert path.endswith("openapi.json") or all("$ref" in str(answer["content"]) for answer in good), where
                assert operation["security"] == [] or {"401", "403"} <= operation["responses"].keys(), where
