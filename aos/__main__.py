"""`python -m aos`: the command line of the operating system."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from aos.adapters_cli import cli as adapters
from aos.config import Settings, load_settings
from aos.dead_letters_cli import cli as dead_letters
from aos.errors import AosError
from aos.foundry_cli import cli as foundry
from aos.garbage import seldom_collected
from aos.tools_cli import cli as tools

HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:\d{1,5})?")
"""`host` of OpenAPI 2.0: a name, with a port if need be."""

cli = typer.Typer(add_completion=False, no_args_is_help=True)
cli.add_typer(adapters, name="adapters")
cli.add_typer(dead_letters, name="dead-letters")
cli.add_typer(tools, name="tools")
cli.add_typer(foundry, name="foundry")


@cli.callback()
def main() -> None:
    """AOS, the Agent Operating System."""


@cli.command()
def serve(
    folder: Annotated[Path, typer.Option(help="Where the registry files lie if no storage is configured.")] = Path(),
) -> None:
    """Serve the app on the ASGI runtime, with the settings in the environment."""
    from aos.telemetry.logs import log_to_stderr
    from aos.telemetry.setup import configure
    from runtime import ServeError

    try:
        settings = load_settings()
        log_to_stderr(os.environ.get("AOS_LOG_LEVEL") or "INFO", settings.log_format)
        for talkative in ("azure", "httpx2", "mcp"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        flush = configure(settings)
        try:
            asyncio.run(_serve(folder, settings))
        finally:
            flush()
    except (AosError, ServeError) as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


@cli.command()
def connector(
    host: Annotated[str, typer.Argument(help="Where the API is served over HTTPS, such as app.azurewebsites.net.")],
    tenant: Annotated[str | None, typer.Option(help="Sign in with Entra ID of this tenant, not with a key.")] = None,
) -> None:
    """Print the API as a custom connector of the Power Platform takes it (OpenAPI 2.0)."""
    from aos.app import routes
    from aos.connector import connector_document
    from runtime import RuntimeConfig, openapi_document

    if not HOST.fullmatch(host):
        raise typer.BadParameter(f"{host!r} is no host: give its name alone, without https:// and path")
    config = RuntimeConfig(app_name="AOS")
    document = openapi_document(routes(load_settings()), title=config.app_name, version=config.app_version)
    typer.echo(json.dumps(connector_document(document, host, tenant), indent=2))


async def _serve(folder: Path, settings: Settings) -> None:
    with seldom_collected():
        from aos.access import entra_of, keys_of
        from aos.app import routes
        from aos.system import AgentOperatingSystem
        from aos.welcome import welcome
        from runtime import AsgiRuntime, RuntimeConfig

    def bus_problems() -> list[str]:
        down = [state for state in host.bus_states() if not state.connected]
        return [f"{state.entity}: {state.last_error or 'connecting'}" for state in down]

    async def initialize() -> AgentOperatingSystem:
        system = AgentOperatingSystem(settings, folder=folder, bus_problems=bus_problems)
        with seldom_collected():
            await system.start()
        return system

    async def shutdown(system: AgentOperatingSystem) -> None:
        await system.close()

    host = AsgiRuntime(
        RuntimeConfig(app_name="AOS"),
        routes(settings),
        initialize,
        shutdown,
        keys=keys_of(settings),
        entra=entra_of(settings),
        settings=os.environ,
        port_setting="AOS_PORT",
    )
    greeting = asyncio.create_task(welcome(host, settings), name="welcome")
    try:
        await host.serve(settings.host, settings.port)
    finally:
        greeting.cancel()
        await asyncio.gather(greeting, return_exceptions=True)


if __name__ == "__main__":
    cli()
