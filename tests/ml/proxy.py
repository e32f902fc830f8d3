"""A proxy before the emulated project that forwards the first answer of a model but breaks it on the way back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.foundry.project import Project
from tests.ml.serving import serving


@dataclass
class Proxy:
    url: str


@asynccontextmanager
async def losing_first_answer(project: Project) -> AsyncIterator[Proxy]:
    lost: list[str] = []
    upstream = httpx2.AsyncClient(base_url=project.emulator.url)

    async def forward(request: Request) -> Response:
        answer = await upstream.request(
            request.method,
            request.url.path,
            params=dict(request.query_params),
            content=await request.body(),
            headers={"api-key": "local", "content-type": "application/json"},
        )
        if request.url.path.endswith("/responses") and not lost:
            lost.append(request.url.path)
            return Response("<html>502 Bad Gateway</html>", 502, media_type="text/html")
        return Response(answer.content, answer.status_code, media_type="application/json")

    methods = ["GET", "POST", "DELETE"]
    async with upstream, serving(Starlette(routes=[Route("/{path:path}", forward, methods=methods)])) as url:
        yield Proxy(url)
