"""An application behind AOS's routes that keeps what its triggers hand over, and one that cannot start."""

from __future__ import annotations

import dataclasses
from typing import Any

from aos.app import routes
from aos.config import load_settings
from aos.messaging.incoming import Incoming
from runtime import AuthLevel, Keys, Request, RouteRegistry

OUTPUT_QUEUE = "replies-of-functions"
SETTINGS = {"AOS_FUNCTION_OUTPUT_QUEUES": OUTPUT_QUEUE}
ADMIN_KEY = "admin-key-of-the-tests"
KEYS = Keys(function="function-key-of-the-tests", admin=ADMIN_KEY)


class Part:
    """Stands where a part of the system stands, and keeps what it is told."""

    def __init__(self, name: str, told: list[list[object]]) -> None:
        self._name = name
        self._told = told

    async def receive(self, *message: object) -> None:
        self._told.append([self._name, *(_plain(part) for part in message)])

    async def run(self) -> None:
        self._told.append([self._name])


class Recorder:
    """`aos.system.AgentOperatingSystem`, as far as triggers use it."""

    def __init__(self) -> None:
        self.told: list[list[object]] = []
        self.intake, self.functions, self.mcp = (Part(name, self.told) for name in ("intake", "functions", "mcp"))
        self.schedules, self.retention = (Part(name, self.told) for name in ("schedules", "retention"))

    async def sweep(self) -> None:
        self.told.append(["sweep"])

    async def reconcile(self) -> None:
        self.told.append(["reconcile"])


def _plain(value: object) -> object:
    if isinstance(value, Incoming):
        return {name: _plain(part) for name, part in dataclasses.asdict(value).items()}
    return value.decode() if isinstance(value, bytes) else value


async def told(request: Request) -> list[Any]:
    """What the application was told so far."""
    recorder: Recorder = request.app
    return recorder.told


def build_registry() -> RouteRegistry:
    """The routes of AOS, and one that shows the record."""
    registry = routes(load_settings(SETTINGS))
    registry.register("told", told, auth_level=AuthLevel.ANONYMOUS, name="told")
    return registry
