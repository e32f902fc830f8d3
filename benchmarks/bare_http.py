"""The floor of a request over HTTP: Starlette and uvicorn read JSON and answer JSON, nothing else."""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def answer(request: Request) -> JSONResponse:
    return JSONResponse({"reply": (await request.json())["message"], "status": "completed"})


if __name__ == "__main__":
    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    print("ready", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
