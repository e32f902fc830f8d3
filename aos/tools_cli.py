"""`python -m aos tools`: which definitions MCP servers list, which are approved, and approving those that changed."""

from __future__ import annotations

import asyncio
import difflib
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from aos.errors import AosError
from aos.mcp.invisible import revealed
from aos.mcp.pins import Lock, Pin, ToolPins
from aos.mcp.tools import ServerTools, ToolInfo

if TYPE_CHECKING:
    from rich.console import Console

    from aos.mcp.catalogue import ToolCatalogue

cli = typer.Typer(no_args_is_help=True, help="Tools of MCP servers: listed, approved, changed.")

T = TypeVar("T")
Server = Annotated[str, typer.Argument(help="Id of an MCP server; all of them if left out.")]
Tool = Annotated[str, typer.Argument(help="Name of one of its tools; all of them if left out.")]


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A tool as it was last listed, and as it was approved; one of the two may be missing."""

    server: str
    name: str
    listed: ToolInfo | None
    pin: Pin | None

    @property
    def state(self) -> str:
        if self.listed is None:
            return "not listed"
        if self.pin is not None and self.pin.hash == self.listed.definition_hash:
            return "approved"
        return "changed" if self.listed.changed else "not pinned"

    def lines(self) -> Iterator[str]:
        """A unified diff from what was approved to what is listed."""
        old = [] if self.pin is None else _text(self.pin.info(self.name))
        new = [] if self.listed is None else _text(self.listed)
        return difflib.unified_diff(old, new, "approved", "listed", lineterm="", n=3)


def reviewed(listings: list[ServerTools], lock: Lock, server: str = "", tool: str = "") -> list[Reviewed]:
    """Every tool that is listed or approved, by server and name; only those asked for."""
    listed = {(found.server_id, info.name): info for found in listings for info in found.tools}
    pins = {(server_id, name): pin for server_id, of in lock.servers.items() for name, pin in of.items()}
    return [
        Reviewed(*key, listed.get(key), pins.get(key))
        for key in sorted(listed.keys() | pins.keys())
        if server in ("", key[0]) and tool in ("", key[1])
    ]


@cli.command("list")
def list_tools(server: Server = "") -> None:
    """List the tools that servers listed last, and whether they are what was approved."""
    from rich.table import Table
    from rich.text import Text

    found = _run(lambda pins, catalogue: _reviewed(pins, catalogue, server))
    table = Table("server", "tool", "state", "annotations", "hash", "approved")
    for each in found:
        info = each.listed
        notes = "" if info is None else "read-only" if info.read_only else "idempotent" if info.idempotent else "writes"
        digest = info.definition_hash if info else each.pin.hash if each.pin else ""
        since = f"{each.pin.since:%Y-%m-%d %H:%M} {each.pin.by}" if each.pin else ""
        colour = "red" if each.state == "changed" else ""
        # A name is whatever its server chose: it is no markup.
        table.add_row(Text(each.server), Text(each.name), each.state, notes, digest[:12], since, style=colour)
    _console().print(table if found else "No server has listed its tools yet.")


@cli.command()
def diff(server: Server = "", tool: Tool = "") -> None:
    """Show what changed: `-` is what was approved, `+` what the server lists now. Exits with 1 if there is anything."""
    from rich.text import Text

    found = _run(lambda pins, catalogue: _reviewed(pins, catalogue, server, tool))
    _known(found, server, tool)
    console = _console()
    changed = [each for each in found if each.state == "changed"]
    for each in changed:
        assert each.listed is not None  # noqa: S101 - what is not listed has not changed
        console.print(Text(f"{each.server} {each.name} ({each.listed.definition_hash[:12]})", style="bold"))
        for line in each.lines():
            style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
            console.print(Text(line, style=style), soft_wrap=True)
    if changed:
        raise typer.Exit(1)
    console.print("Nothing has changed.")


@cli.command()
def approve(
    server: Server = "",
    tool: Tool = "",
    everything: Annotated[bool, typer.Option("--all", help="Of every server.")] = False,
    hash_: Annotated[str, typer.Option("--hash", help="Only if this is the hash that `diff` showed.")] = "",
) -> None:
    """Allow what servers list now; it is in use within a minute."""
    if everything == bool(server):
        typer.secho("Name a server, or say --all.", fg="red", err=True)
        raise typer.Exit(2)

    async def work(pins: ToolPins, catalogue: ToolCatalogue) -> list[Reviewed]:
        found = await _reviewed(pins, catalogue, server, tool)
        _known(found, server, tool)
        wanted = [each for each in found if each.state == "changed"]
        other = [each for each in wanted if each.listed and not each.listed.definition_hash.startswith(hash_)]
        if other:
            typer.secho(f"{other[0].server} {other[0].name} has another hash now: look again.", fg="red", err=True)
            raise typer.Exit(1)
        for server_id in sorted({each.server for each in wanted}):
            tools = [each.listed for each in wanted if each.server == server_id and each.listed]
            await pins.approve(server_id, tools)
        return wanted

    for each in (wanted := _run(work)):
        typer.echo(f"{each.server} {each.name}: approved")
    if not wanted:
        typer.echo("Nothing has changed.")


def _known(found: list[Reviewed], server: str, tool: str) -> None:
    if not found and (server or tool):
        typer.secho(f"Nothing is known of {' '.join(filter(None, (server, tool)))}.", fg="red", err=True)
        raise typer.Exit(2)


def _text(tool: ToolInfo) -> list[str]:
    data = tool.model_dump(include={"name", "description", "input_schema", "read_only", "idempotent"})
    return revealed(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)).split("\n")


def _console() -> Console:
    from rich.console import Console

    # Too narrow a table would hide the names, which are what one copies from here.
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


async def _reviewed(pins: ToolPins, catalogue: ToolCatalogue, server: str, tool: str = "") -> list[Reviewed]:
    return reviewed(await catalogue.all(), await pins.current(fresh=True), server, tool)


def _run(work: Callable[[ToolPins, ToolCatalogue], Awaitable[T]]) -> T:
    try:
        return asyncio.run(_with_storage(work))
    except AosError as error:
        typer.secho(f"{error.title} {error.detail}", fg="red", err=True)
        raise typer.Exit(2) from None


async def _with_storage(work: Callable[[ToolPins, ToolCatalogue], Awaitable[T]]) -> T:
    from aos.config import load_settings
    from aos.identity import identity
    from aos.mcp.catalogue import ToolCatalogue
    from aos.storage.account import StorageAccount
    from aos.storage.payloads import STATE_CONTAINER, Payloads

    settings = load_settings()
    credential = identity(settings) if settings.needs_identity else None
    account = StorageAccount(settings, credential)
    catalogue = ToolCatalogue(account, Payloads(account, STATE_CONTAINER))
    try:
        return await work(ToolPins(account, settings.mcp_container), catalogue)
    finally:
        await account.close()
        if credential is not None:
            await credential.close()
