"""`python -m aos foundry`: what an operator does in the Foundry project behind AOS."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from aos.errors import AosError

if TYPE_CHECKING:
    from aos.leftovers import Leftover

cli = typer.Typer(no_args_is_help=True, help="The Foundry Agent Service behind AOS.")

RolledOver = Annotated[
    bool, typer.Option("--rolled-over", help="Also conversations that were rolled over; their text is nowhere else.")
]


@cli.command()
def migrate(
    agent: Annotated[str, typer.Argument(help="Id of the agent.")] = "",
    conversation: Annotated[str, typer.Argument(help="Id of the conversation.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every conversation that is still a thread.")] = False,
) -> None:
    """Move conversations from the threads API, which retires on 2027-03-31, to the current one."""
    if everything == bool(agent) or bool(agent) != bool(conversation):
        raise typer.BadParameter("name an agent and a conversation, or give --all")
    from aos.config import load_settings
    from aos.migrate import migrate_conversations

    try:
        left = asyncio.run(migrate_conversations(load_settings(), (agent, conversation) if agent else None, typer.echo))
    except AosError as error:
        typer.secho(error.detail, fg="red", err=True)
        sys.exit(2)
    sys.exit(1 if left else 0)


@cli.command("list")
def list_leftovers(rolled_over: RolledOver = False) -> None:
    """List agents, versions, threads and conversations that AOS made and nobody refers to any more."""
    _go(delete=False, rolled_over=rolled_over)


@cli.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; without it they are only listed.")] = False,
    rolled_over: RolledOver = False,
) -> None:
    """Delete what `list` shows. What AOS did not make is never touched."""
    _go(delete=yes, rolled_over=rolled_over)
    if not yes:
        typer.echo("Nothing was deleted; --yes deletes what is listed.")


def _go(*, delete: bool, rolled_over: bool) -> None:
    try:
        failed = asyncio.run(_work(delete=delete, rolled_over=rolled_over))
    except AosError as error:
        typer.secho(f"{error.title} {error.detail}", fg="red", err=True)
        raise typer.Exit(2) from None
    if failed:
        raise typer.Exit(1)


async def _work(*, delete: bool, rolled_over: bool) -> int:
    """How many could not be deleted."""
    from aos.config import load_settings
    from aos.leftovers import open_leftovers

    async with open_leftovers(load_settings(), rolled_over=rolled_over) as leftovers:
        found = await leftovers.find()
        outcomes: list[str] = []
        for leftover in found if delete else ():
            try:
                outcomes.append("deleted" if await leftovers.remove(leftover) else "was gone")
            except AosError as error:
                outcomes.append(f"failed: {error.detail}")
        for remark in leftovers.remarks:
            typer.secho(remark, fg="yellow", err=True)
    _show(found, outcomes)
    return sum(outcome.startswith("failed") for outcome in outcomes)


def _show(found: Sequence[Leftover], outcomes: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("kind", "id", "agent", "since", "why", *(["outcome"] if outcomes else []))
    for number, leftover in enumerate(found):
        since = leftover.since
        cells = [
            leftover.kind,
            leftover.identity,
            leftover.agent_id,
            "" if since is None else datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds"),
            leftover.why,
            *outcomes[number : number + 1],
        ]
        table.add_row(*map(Text, cells))
    Console(width=None if sys.stdout.isatty() else 240).print(table if found else "Nothing is left over.")
