"""Failures of the model itself, injected for tests: the request is accepted, and what it started fails.

HTTP faults (`Edge`) refuse a request; these make the run or response that it began report the error, which is how the
service tells of its own rate limits (status ``failed`` below HTTP 200).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from emulators.foundry.edge import MAX_FAULTS, error_response, json_response, read_body
from emulators.foundry.errors import ApiError
from emulators.foundry.model import Model, ModelError, ModelEvent, ModelRequest


class ModelFault(BaseModel):
    """The error of the next ``times`` steps of the model."""

    model_config = ConfigDict(extra="forbid")

    code: str = Field(default="server_error", min_length=1)
    message: str = "Injected by /_emulator/model_faults."
    times: int = Field(default=1, ge=1, le=1_000_000)


class FaultyModel:
    """Another model, with injected failures in front of it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._faults: list[ModelFault] = []

    @property
    def kind(self) -> str:
        """What answers when nothing is injected."""
        return self._model.kind

    def check(self, request: ModelRequest) -> None:
        """As the model behind."""
        self._model.check(request)

    async def step(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Fail if asked to, else as the model behind."""
        if self._faults:
            fault = self._faults[0]
            fault.times -= 1
            if fault.times == 0:
                del self._faults[0]
            raise ModelError(fault.code, fault.message)
        async for event in self._model.step(request):
            yield event

    async def close(self) -> None:
        """Close the model behind."""
        await self._model.close()

    def admin_routes(self) -> list[Route]:
        """``/_emulator/model_faults`` (POST, GET, DELETE); no credential asked."""

        async def add(request: Request) -> Response:
            try:
                fault = await read_body(request, ModelFault)
            except ApiError as error:
                return error_response(error)
            if len(self._faults) >= MAX_FAULTS:
                return error_response(ApiError(400, "too_many_faults", f"At most {MAX_FAULTS} faults can wait."))
            self._faults.append(fault)
            return json_response(fault.model_dump(), status=201)

        async def waiting(request: Request) -> Response:
            return json_response({"faults": [fault.model_dump() for fault in self._faults]})

        async def clear(request: Request) -> Response:
            self._faults.clear()
            return json_response({"faults": []})

        path = "/_emulator/model_faults"
        return [
            Route(path, add, methods=["POST"]),
            Route(path, waiting, methods=["GET"]),
            Route(path, clear, methods=["DELETE"]),
        ]
