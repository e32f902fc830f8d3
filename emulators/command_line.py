"""The commands `up` and `run`. Settings go to standard output, everything for the eye to standard error."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emulators import ports
from emulators.child import Child
from emulators.errors import StackError
from emulators.settings import load_settings, write_dotenv
from emulators.stack import Stack

COMMAND_SECONDS = 30.0
"""How long the command of `run` may take to end after a signal, or when the stack failed."""

app = typer.Typer(
    help="The local stack: Azurite, a Service Bus emulator and a Foundry emulator, on the loopback address.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)

Seed = Annotated[bool, typer.Option("--seed", help="Replace the registries in storage by the files of this folder.")]
Write = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the settings to this dotenv file.")]
Command = Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run.")]


@app.command()
def up(write: Write = None, seed: Seed = False) -> None:
    """Start the stack, print the settings for its clients, and keep it running until Ctrl-C."""
    _finish(_up(write, seed))


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(command: Command, write: Write = None, seed: Seed = False) -> None:
    """Start the stack, run COMMAND with its settings in the environment, and stop the stack when it ends."""
    _finish(_run(command, write, seed))


def _finish(work: Coroutine[None, None, int]) -> None:
    try:
        status = asyncio.run(work)
    except StackError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        status = 1
    raise typer.Exit(status)


async def _up(write: Path | None, seed: bool) -> int:
    stop = _Stop()
    _on_signals(stop)
    try:
        async with _stack(seed, write) as stack:
            for name, value in stack.environment.items():
                print(f"{name}={value}", flush=True)
            await stack.supervise()
    except asyncio.CancelledError:
        # This is how a signal ends it; what was running has been stopped.
        return 0
    return 1


async def _run(command: list[str], write: Path | None, seed: bool) -> int:
    stop = _Stop()
    child: Child | None = None

    def on_signal(number: int) -> None:
        if child is None or not child.running:
            stop(number)
        else:
            child.send_signal(number)
            stop.later(number)

    _on_signals(on_signal)
    try:
        async with _stack(seed, write) as stack:
            child = Child(
                command[0],
                command,
                env={**os.environ, **stack.environment},
                grace=COMMAND_SECONDS,
                # It has no terminal to read from, since Ctrl-C is passed on to it.
                share_stdin=not sys.stdin.isatty(),
            )
            return await _beside(child, stack)
    except asyncio.CancelledError:
        return 128 + stop.number


async def _beside(child: Child, stack: Stack) -> int:
    """Runs the command while the stack is kept up; returns its exit status.

    Raises:
        PartFailed: the stack failed first; the command has been ended.
    """
    await child.start()
    ending, keeping = asyncio.create_task(child.wait()), asyncio.create_task(stack.supervise())
    either: set[asyncio.Task[int] | asyncio.Task[None]] = {ending, keeping}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            keeping.result()
        return await ending
    finally:
        for task in either:
            task.cancel()
        await asyncio.gather(*either, return_exceptions=True)
        await child.stop()


class _Stop:
    """Ends the task that made it: in order when asked once, at once when asked again."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - made in a coroutine
        self._task = task
        self.number = 0

    def __call__(self, number: int) -> None:
        if self.number:
            # The leashes see that this process is gone and end what runs.
            os._exit(128 + number)
        self.number = number
        console.print("stopping", style="dim")
        self._task.cancel()

    def later(self, number: int) -> None:
        """For a command that was asked to end and may take its time, but not for ever."""
        if not self.number:
            self.number = number
            asyncio.get_running_loop().call_later(COMMAND_SECONDS, self._task.cancel)


def _on_signals(handler: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, handler, number)


@asynccontextmanager
async def _stack(seed: bool, write: Path | None) -> AsyncIterator[Stack]:
    """The stack of this folder, started and announced."""
    stack = Stack(load_settings(), project=Path(), replace_registries=seed, report=_report)
    with console.status("starting the local stack"):
        await stack.start()
    try:
        if write is not None:
            write_dotenv(write, stack.environment)
        console.print(_table(stack))
        yield stack
    finally:
        await stack.stop()


def _report(line: str) -> None:
    console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def _table(stack: Stack) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("part", "address", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("data", overflow="fold")
    for part in stack.parts:
        addresses = ", ".join(str(port) for port in part.ports.values())
        table.add_row(escape(part.name), f"{ports.HOST}:{addresses}", "[green]ready[/]", escape(_near(part.detail)))
    return table


def _near(path: str) -> str:
    """The path as seen from the working directory, if it lies below."""
    here = f"{Path.cwd()}{os.sep}"
    return path.removeprefix(here)
