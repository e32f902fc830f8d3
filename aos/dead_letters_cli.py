"""`python -m aos dead-letters`: what an operator does with messages that were not handled."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from aos.errors import AosError

cli = typer.Typer(no_args_is_help=True, help="List, show and replay messages that could not be handled.")

T = TypeVar("T")


@cli.command("list")
def list_letters(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Letters shown of each place.")] = 100,
) -> None:
    """List parked messages and those in dead-letter queues."""
    from rich.console import Console
    from rich.table import Table

    letters = _run(lambda dead_letters: dead_letters.letters(limit))
    table = Table("id", "since", "reason", "from", "message id", "attempt", "description")
    for letter in letters:
        since = letter.enqueued_at.isoformat(timespec="seconds") if letter.enqueued_at else ""
        table.add_row(
            *(letter.id, since, letter.reason, letter.source, letter.message_id, str(letter.attempt)),
            letter.description,
        )
    # Too narrow a table would hide the ids, which are what one copies from here. Senders write what stands in it, which
    # may look like markup.
    width = None if sys.stdout.isatty() else 240
    Console(width=width, markup=False, emoji=False).print(table if letters else "No dead letters.")


@cli.command()
def show(letter_id: Annotated[str, typer.Argument(help="Such as aos-poison:17.")]) -> None:
    """Show one message with its body."""
    from rich.console import Console

    letter = _run(lambda dead_letters: dead_letters.show(letter_id))
    console = Console(highlight=False, emoji=False)
    for name in ("id", "message_id", "source", "reason", "description", "enqueued_at", "attempt", "operation_id"):
        console.print(f"{name}: {getattr(letter, name)}", markup=False, soft_wrap=True)
    for name in ("correlation_id", "reply_to", "session_id"):
        if getattr(letter, name):
            console.print(f"{name}: {getattr(letter, name)}", markup=False, soft_wrap=True)
    try:
        body = json.dumps(json.loads(letter.body), indent=2, ensure_ascii=False)
    except ValueError:
        body = letter.body.decode(errors="backslashreplace")
    console.print(body, markup=False, soft_wrap=True)


@cli.command()
def replay(
    letter_ids: Annotated[list[str] | None, typer.Argument(help="Such as aos-poison:17.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All there are, or all of one reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Only those that were parked for this reason.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Letters looked at in each place.")] = 1000,
) -> None:
    """Send messages again; each starts the next attempt of its operation, once."""
    if bool(letter_ids) == (everything or reason is not None):
        typer.secho("Name the messages to replay, or say --all or --reason.", fg="red", err=True)
        raise typer.Exit(2)
    from aos.dead_letters import DeadLetters, Replayed, letter_filter

    async def work(dead_letters: DeadLetters) -> Replayed:
        wanted, places = letter_filter(letter_ids or [], reason)
        return await dead_letters.replay(wanted, places, limit)

    replayed = _run(work)
    for letter in replayed.sent:
        typer.echo(f"{letter.id} {letter.message_id}: attempt {letter.attempt + 1} sent to {letter.source}")
    typer.echo(f"{len(replayed.sent)} replayed.")
    for letter in replayed.held:
        typer.secho(f"{letter.id} {letter.message_id}: another receiver holds it; try again in a minute.", err=True)
    for letter, why in replayed.refused:
        typer.secho(f"{letter.id} {letter.message_id}: {why}", fg="red", err=True)
    stayed = (*replayed.held, *(letter for letter, _ in replayed.refused))
    missing = set(letter_ids or []) - {letter.id for letter in (*replayed.sent, *stayed)}
    if missing:
        typer.secho(f"Not there: {', '.join(sorted(missing))}", fg="red", err=True)
    if missing or stayed:
        raise typer.Exit(1)


def _run(work: Callable[..., Awaitable[T]]) -> T:
    try:
        return asyncio.run(_with_bus(work))
    except AosError as error:
        typer.secho(f"{error.title} {error.detail}", fg="red", err=True)
        raise typer.Exit(2) from None


async def _with_bus(work: Callable[..., Awaitable[T]]) -> T:
    from aos.config import load_settings
    from aos.dead_letters import DeadLetters
    from aos.identity import identity
    from aos.messaging.bus import Bus
    from aos.messaging.claim_check import ClaimCheck
    from aos.storage.account import StorageAccount
    from aos.storage.payloads import Payloads

    settings = load_settings()
    credential = identity(settings) if settings.needs_identity else None
    account = StorageAccount(settings, credential)
    bus = Bus(settings, credential)
    try:
        return await work(DeadLetters(bus, ClaimCheck(Payloads(account) if settings.storage_configured else None)))
    finally:
        await bus.close()
        await account.close()
        if credential is not None:
            await credential.close()
