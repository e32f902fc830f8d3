"""The Azure Functions entry: the routes of AOS, bound to a function app. Nothing is opened until it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aos.access import entra_of, keys_of
from aos.app import routes
from aos.config import load_settings
from aos.garbage import seldom_collected
from runtime import RuntimeConfig, create_runtime

if TYPE_CHECKING:
    from aos.system import AgentOperatingSystem

settings = load_settings()


async def initialize() -> AgentOperatingSystem:
    """Builds the operating system when the first invocation needs it."""
    with seldom_collected():
        from aos.system import AgentOperatingSystem
        from aos.telemetry.setup import configure

        configure(settings, hosted=True)
        system = AgentOperatingSystem(settings, folder=Path(__file__).parent)
        await system.start()
    return system


runtime = create_runtime(
    RuntimeConfig(app_name="AOS"),
    routes(settings),
    app_initializer=initialize,
    keys=keys_of(settings),
    entra=entra_of(settings),
)
runtime.create_startup_function()
app = runtime.get_func_app()
