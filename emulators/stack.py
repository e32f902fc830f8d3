"""The local stack: Azurite, the emulators of Service Bus and Foundry, and an MCP server, kept running together."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from emulators.azurite import Azurite
from emulators.deployments import deployment_names, write_deployments
from emulators.errors import AlreadyRunning, BadSetting
from emulators.example_servers import CALENDAR_URL, business_calendar, uses_calendar
from emulators.keeper import keep
from emulators.parts import Emulator, Part, Report, foundry, logger, service_bus
from emulators.ports import settle
from emulators.seed import seed_registries
from emulators.settings import StackSettings

LEFTOVER_SECONDS = 20.0
LOCAL_API_KEY = "local-development-key"
"""The Foundry emulator takes any key."""


class Stack:
    """The local stack with the given settings; an asynchronous context manager.

    Args:
        settings: ports, folders, the model.
        project: folder with `agent_registry.json` and `mcp_server_registry.json`.
        replace_registries: whether blobs that differ from these files are replaced.
        report: is told what happens.

    Raises (from `start`):
        AlreadyRunning, BadSetting, InstallFailed, PartFailed, PortInUse.
    """

    def __init__(
        self,
        settings: StackSettings,
        *,
        project: Path,
        replace_registries: bool = False,
        report: Report = logger.info,
    ) -> None:
        self.settings = settings
        self.state_dir = settings.state_dir.absolute()
        self._project = project
        self._replace = replace_registries
        self._report = report
        self._lock: TextIO | None = None
        self._azurite: Azurite | None = None
        self._parts: Sequence[Part] = ()
        self._addresses: dict[str, str] = {}

    @property
    def parts(self) -> Sequence[Part]:
        """What runs, once started."""
        return self._parts

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings with which an app finds the stack."""
        assert self._azurite is not None  # noqa: S101 - only of a started stack
        return {
            **self._addresses,
            "AZURE_STORAGE_CONNECTION_STRING": self._azurite.connection_string,
            "AZURE_AI_API_KEY": LOCAL_API_KEY,
            "AZURE_AI_MODEL_DEPLOYMENT": self.settings.model_deployment,
            "FOUNDRY_API": self.settings.foundry_api,
            "AGENT_CONFIG_BLOB_CONTAINER": self.settings.agent_container,
            "MCP_REGISTRY_BLOB_CONTAINER": self.settings.mcp_container,
            "USE_FOUNDRY_RUNTIME": self.settings.use_foundry_runtime,
            # MCP servers of a developer are on this machine.
            "AOS_MCP_PRIVATE_NETWORKS": "true",
        }

    async def start(self) -> None:
        """Starts all parts side by side, then puts the registries into storage. Nothing is left running on an error."""
        self._lock = await _take(self.state_dir)
        try:
            azurite, bus, models, calendar = self._prepare(self._lock)
            self._azurite = azurite
            self._parts = (azurite, bus, models) if calendar is None else (azurite, bus, models, calendar)
            await _all(*(part.start() for part in self._parts))
            self._addresses = {
                "AZURE_SERVICE_BUS_CONNECTION_STRING": bus.address,
                "AZURE_AI_PROJECT_ENDPOINT": models.address,
            }
            if calendar is not None:
                self._addresses[CALENDAR_URL] = calendar.address
            await seed_registries(
                azurite.connection_string,
                {
                    self._project / "agent_registry.json": self.settings.agent_container,
                    self._project / "mcp_server_registry.json": self.settings.mcp_container,
                },
                replace=self._replace,
                report=self._report,
            )
        except BaseException:
            await self.stop()
            raise

    def _prepare(self, lock: TextIO) -> tuple[Azurite, Emulator, Emulator, Emulator | None]:
        """The parts with their ports, which are settled together: no two may have the same."""
        settings = self.settings
        wanted = {
            "AOS_BLOB_PORT": ("Azurite's blob service", settings.blob_port),
            "AOS_QUEUE_PORT": ("Azurite's queue service", settings.queue_port),
            "AOS_TABLE_PORT": ("Azurite's table service", settings.table_port),
            "AOS_SERVICEBUS_PORT": ("the Service Bus emulator", settings.servicebus_port),
            "AOS_FOUNDRY_PORT": ("the Foundry emulator", settings.foundry_port),
        }
        if uses_calendar(self._project / "mcp_server_registry.json"):
            wanted["AOS_CALENDAR_PORT"] = ("the business calendar", settings.calendar_port)
        settled = settle(wanted)
        deployments = self.state_dir / "foundry-deployments.json"
        write_deployments(
            deployments,
            deployment_names(
                settings.model_deployment, self._project / "agent_registry.json", settings.foundry_deployments
            ),
        )
        held = (lock.fileno(),)
        azurite = Azurite(
            settled["AOS_BLOB_PORT"],
            settled["AOS_QUEUE_PORT"],
            settled["AOS_TABLE_PORT"],
            location=self.state_dir / "azurite",
            state_dir=self.state_dir,
            install_dir=settings.azurite_dir,
            report=self._report,
            held=held,
        )
        bus = service_bus(settled["AOS_SERVICEBUS_PORT"], settings.servicebus_config, self.state_dir, held)
        models = foundry(settled["AOS_FOUNDRY_PORT"], settings.foundry_model, deployments, self.state_dir, held)
        calendar = (
            business_calendar(settled["AOS_CALENDAR_PORT"], self.state_dir, held)
            if "AOS_CALENDAR_PORT" in settled
            else None
        )
        return azurite, bus, models, calendar

    async def supervise(self) -> None:
        """Starts parts that die again, on the same ports; runs until cancelled.

        Raises:
            PartFailed: a part died too often.
        """
        await _all(*(keep(part, self._report) for part in self._parts))

    async def stop(self) -> None:
        """Stops all parts and waits until they are gone; their data stay."""
        await asyncio.gather(*(part.stop() for part in self._parts))
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def _all(*work: Coroutine[None, None, None]) -> None:
    """Does all at once; the first error ends the rest, which are waited for, and is raised alone."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _open_lock(state_dir: Path) -> TextIO:
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        return (state_dir / "stack.lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise BadSetting(f"AOS_STATE_DIR={state_dir} cannot be used: {error.strerror}") from error


async def _take(state_dir: Path) -> TextIO:
    """Locks the state folder for this stack.

    The lock is held by the parts too: after a stack was killed, it is free when the last of its parts has gone.
    """
    lock = _open_lock(state_dir)
    deadline = time.monotonic() + LEFTOVER_SECONDS
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip()
                if _alive(holder) or time.monotonic() > deadline:
                    raise AlreadyRunning(
                        f"a stack is running on {state_dir} already (process {holder or 'unknown'}): stop it,"
                        " or set AOS_STATE_DIR and the ports to others"
                    ) from None
                await asyncio.sleep(0.1)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
    except BaseException:
        lock.close()
        raise
    return lock


def _alive(process: str) -> bool:
    if not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
