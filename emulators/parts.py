"""The parts of the local stack as the stack sees them, and our own emulators as such parts."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from emulators import ports
from emulators.child import Child

logger = logging.getLogger("emulators.stack")

READY_SECONDS = 30.0
PACKAGE_ROOT = Path(__file__).parents[1]


class Part(Protocol):
    """Something that runs as a child process and is started again, on the same ports, when it dies."""

    @property
    def name(self) -> str: ...

    @property
    def ports(self) -> Mapping[str, int]:
        """Setting -> port, once started."""
        ...

    @property
    def detail(self) -> str:
        """Where it keeps its data."""
        ...

    async def start(self) -> None:
        """Returns when it is ready for clients."""
        ...

    async def wait(self) -> int:
        """Its exit status, when it ends."""
        ...

    async def stop(self) -> None: ...


class Emulator:
    """One of our own servers, which prints the address for its clients when it is ready.

    Args:
        name: how messages call it.
        module: run as `python -m MODULE --port P`, with `--db FILE` if there is one.
        setting, port: the setting that names its port; 0 = a free one, chosen at the first start.
        address: regular expression for what it prints.
        database: its SQLite file; None if it keeps no data.
        logs: folder for its log.
        arguments: more of them.
        held: file descriptors that stay open as long as it lives.
    """

    def __init__(
        self,
        name: str,
        module: str,
        *,
        setting: str,
        port: int,
        address: str,
        database: Path | None,
        logs: Path,
        arguments: Sequence[str] = (),
        held: Iterable[int] = (),
    ) -> None:
        self.name = name
        self.ports: Mapping[str, int] = {setting: port}
        self.address = ""
        self._module = module
        self._setting = setting
        self._pattern = address
        self._database = database
        self._log = logs / f"{module.rpartition('.')[2]}.log"
        self._arguments = arguments
        self._held = tuple(held)
        self._child: Child | None = None

    @property
    def detail(self) -> str:
        return str(self._database or "")

    async def start(self) -> None:
        """Starts it and waits for its address.

        Raises:
            PortInUse, PartFailed.
        """
        self.ports = ports.settle({self._setting: (f"the {self.name}", self.ports[self._setting])})
        port = self.ports[self._setting]
        search = [str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        data = () if self._database is None else ("--db", self._database)
        self._child = Child(
            self.name,
            [sys.executable, "-m", self._module, "--port", str(port), *data, *self._arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search), "PYTHONUNBUFFERED": "1"},
            log=self._log,
            held=self._held,
        )
        ready = self._child.line(self._pattern)
        await self._child.start()
        try:
            self.address = await self._child.ready(ready, READY_SECONDS)
        except BaseException:
            await self._child.stop()
            raise

    async def wait(self) -> int:
        assert self._child is not None  # noqa: S101 - only of a started part
        return await self._child.wait()

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop()


def service_bus(port: int, config: Path | None, state_dir: Path, held: Iterable[int] = ()) -> Emulator:
    """The Service Bus emulator with the entities of a file, or its own; its address is a connection string."""
    return Emulator(
        "Service Bus emulator",
        "emulators.servicebus",
        setting="AOS_SERVICEBUS_PORT",
        port=port,
        address=r"Endpoint=sb://\S+",
        database=state_dir / "servicebus.db",
        logs=state_dir / "logs",
        arguments=() if config is None else ("--config", str(config.absolute())),
        held=held,
    )


def foundry(port: int, model: str, deployments: Path, state_dir: Path, held: Iterable[int] = ()) -> Emulator:
    """The Foundry emulator with the model deployments in a file; its address is a project endpoint."""
    return Emulator(
        "Foundry emulator",
        "emulators.foundry",
        setting="AOS_FOUNDRY_PORT",
        port=port,
        address=r"http://[\w.:-]+/api/projects/[\w-]+",
        database=state_dir / "foundry.db",
        logs=state_dir / "logs",
        arguments=("--model", model, "--deployments", str(deployments)),
        held=held,
    )


Report = Callable[[str], None]
"""Is told, in one line each, what takes time and what happened."""
