"""Azurite as a child process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from emulators import ports
from emulators.azurite.install import install
from emulators.child import Child

logger = logging.getLogger("emulators.azurite")

# The one account that Azurite has, published in its documentation: no secret.
ACCOUNT_NAME = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
READY_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 60
"""For which it keeps an idle connection: longer than clients do (aiohttp 15 s). With its own 5 s it closes some in the
very moment in which a client writes on them."""


class Azurite:
    """Azurite's blob, queue and table services on the loopback address.

    `async with Azurite() as azurite: azurite.connection_string`. After `stop` it can start again, on the same ports.

    Args:
        blob_port, queue_port, table_port: 0 = a free one, chosen at the first start.
        location: folder for its data; None keeps them in memory.
        state_dir: folder for its log, and for the installation if `install_dir` is None.
        install_dir: parent of the installation's folder.
        report: is told what takes time.
        held: file descriptors that stay open as long as it lives.

    Raises (from `start`):
        InstallFailed, PortInUse, PartFailed.
    """

    name = "Azurite"

    def __init__(
        self,
        blob_port: int = 0,
        queue_port: int = 0,
        table_port: int = 0,
        *,
        location: Path | None = None,
        state_dir: Path = Path(".aos"),
        install_dir: Path | None = None,
        report: Callable[[str], None] = logger.info,
        held: Iterable[int] = (),
    ) -> None:
        self.ports = {"AOS_BLOB_PORT": blob_port, "AOS_QUEUE_PORT": queue_port, "AOS_TABLE_PORT": table_port}
        self._location = location
        self._state_dir = state_dir.absolute()
        self._install_dir = (install_dir or state_dir).absolute()
        self._report = report
        self._held = tuple(held)
        self._child: Child | None = None

    @property
    def connection_string(self) -> str:
        """For every SDK of Azure Storage, with the ports of the last start."""
        blob, queue, table = self.ports.values()
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT_NAME};AccountKey={ACCOUNT_KEY};"
            f"BlobEndpoint=http://{ports.HOST}:{blob}/{ACCOUNT_NAME};"
            f"QueueEndpoint=http://{ports.HOST}:{queue}/{ACCOUNT_NAME};"
            f"TableEndpoint=http://{ports.HOST}:{table}/{ACCOUNT_NAME};"
        )

    @property
    def detail(self) -> str:
        return "in memory" if self._location is None else str(self._location)

    async def start(self) -> None:
        """Installs it if need be, starts it, and returns when all three services accept connections."""
        node, script = await install(self._install_dir, self._report)
        self.ports = ports.settle(
            {
                setting: (f"Azurite's {setting.split('_')[1].lower()} service", port)
                for setting, port in self.ports.items()
            }
        )
        where: list[str | Path]
        if self._location is None:
            where = ["--inMemoryPersistence"]
        else:
            self._location.mkdir(parents=True, exist_ok=True)
            where = ["--location", self._location.absolute()]
        # Without --skipApiVersionCheck it refuses current SDKs, whose API version is newer than its own.
        flags = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", *where]
        for service, port in zip(("blob", "queue", "table"), self.ports.values(), strict=True):
            flags += [f"--{service}Host", ports.HOST, f"--{service}Port", str(port)]
            flags += [f"--{service}KeepAliveTimeout", str(KEEP_ALIVE_SECONDS)]
        self._child = Child(
            self.name,
            [node.binary, script, *flags],
            env=node.environment(),
            log=self._state_dir / "logs" / "azurite.log",
            held=self._held,
        )
        await self._child.start()
        try:
            await self._child.ready(asyncio.ensure_future(self._accepting()), READY_SECONDS)
        except BaseException:
            await self._child.stop()
            raise

    async def _accepting(self) -> str:
        await asyncio.gather(*(ports.accepts(port) for port in self.ports.values()))
        return self.connection_string

    async def wait(self) -> int:
        """Waits for its end; returns its exit status."""
        assert self._child is not None  # noqa: S101 - only of a started part
        return await self._child.wait()

    async def stop(self) -> None:
        """Ends it and waits until it is gone; data in a folder are kept."""
        if self._child is not None:
            await self._child.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
