"""`python -m aos adapters`: train, look at, compare and serve LoRA adapters."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from aos.config import load_settings
from aos.errors import AosError, SettingError

if TYPE_CHECKING:
    from aos.lora.job import TrainingReport

cli = typer.Typer(no_args_is_help=True, help="LoRA adapters: train, list, show, evaluate, compare, serve.")

T = TypeVar("T")
Home = Annotated[Path | None, typer.Option("--output", help="Folder of the adapters; AOS_ADAPTERS_DIR by default.")]
Base = Annotated[
    str | None, typer.Option("--base", help="Folder or name of the base model; AOS_BASE_MODEL by default.")
]
Data = Annotated[str, typer.Option("--data", help="JSONL file, or container/name of a blob.")]
Version = Annotated[int | None, typer.Option(help="The newest without it.")]


@cli.command()
def train(
    role: Annotated[str, typer.Argument(help="Name of the adapter, such as ceo.")],
    data: Data,
    base: Base = None,
    output: Home = None,
    epochs: Annotated[float, typer.Option()] = 3,
    max_steps: Annotated[int | None, typer.Option(help="Ends the training early.")] = None,
    learning_rate: Annotated[float, typer.Option()] = 2e-4,
    batch_size: Annotated[int, typer.Option()] = 4,
    rank: Annotated[int, typer.Option(help="Rank of the adapter's matrices.")] = 16,
    alpha: Annotated[int, typer.Option(help="Scale: alpha / rank.")] = 32,
    target_modules: Annotated[str, typer.Option(help="Linear layers, or all-linear.")] = "q_proj,v_proj",
    checkpoint_steps: Annotated[int, typer.Option(help="Updates between two checkpoints.")] = 50,
    register: Annotated[bool, typer.Option(help="Enter it into the registry of the storage account.")] = False,
) -> None:
    """Train an adapter; a training that was killed goes on when it is started again."""
    _run(
        _train(
            role,
            data,
            register,
            {
                "model_name": base,
                "output_dir": output,
                "epochs": epochs,
                "max_steps": max_steps,
                "learning_rate": learning_rate,
                "batch_size": batch_size,
                "checkpoint_steps": checkpoint_steps,
            },
            {"r": rank, "lora_alpha": alpha, "target_modules": [part.strip() for part in target_modules.split(",")]},
        )
    )


async def _train(role: str, data: str, register: bool, params: dict[str, Any], config: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from aos.lora.job import Progress as Told
    from aos.lora.job import TrainingJob
    from aos.lora.process import run_training
    from aos.lora.sources import local_data, open_registry

    params |= {"model_name": _base(params["model_name"]), "output_dir": str(_home(params["output_dir"]))}
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=console) as progress:
        job = TrainingJob.read(
            role, params | {"data_path": str(await local_data(data, load_settings(), Path(folder)))}, config
        )
        bar = progress.add_task(f"{role}: loading", total=None)

        def tell(told: Told) -> None:
            loss = "" if told.loss is None else f", loss {told.loss:.4f}"
            progress.update(
                bar, description=f"{role}: {told.phase}{loss}", completed=told.step, total=told.steps or None
            )

        report = await run_training(job, tell)
    _show([("path", report.path), *_facts(report)], title=f"{report.adapter} v{report.version}")
    if register:
        settings = load_settings()
        async with open_registry(settings) as registry:
            entered = await registry.register(Path(report.path))
        console.print(f"Registered as {entered.adapter} v{entered.version}.")


@cli.command("list")
def list_adapters(output: Home = None) -> None:
    """List the adapters of this machine and those in the registry."""
    _run(_list(output))


async def _list(output: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from aos.lora.folder import reports
    from aos.lora.sources import open_registry

    home = _home(output)
    table = Table("adapter", "version", "where", "base", "examples", "evaluation loss", "without the adapter")
    found = [(str(home), report) for report in reports(home)]
    settings = load_settings()
    if settings.storage_configured:
        async with open_registry(settings) as registry:
            found += [("registry", version.report) for version in await registry.adapters()]
    for where, report in sorted(found, key=lambda item: (item[1].adapter, item[0])):
        table.add_row(
            *(report.adapter, f"v{report.version}", where, report.model_name, str(report.examples)),
            *(_loss(report.eval_loss), _loss(report.base_eval_loss)),
        )
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False)
    console.print(table if found else f"No adapters in {home}.")


@cli.command()
def show(adapter: str, version: Version = None, output: Home = None) -> None:
    """Show what an adapter was made from and how good it is."""
    from aos.lora.folder import find
    from aos.lora.training import read_report

    async def work() -> None:
        folder = find(_home(output), adapter, version)
        report = read_report(folder)
        _show([("path", str(folder)), *_facts(report)], title=f"{report.adapter} v{report.version}")

    _run(work())


@cli.command()
def evaluate(adapter: str, data: Data, version: Version = None, base: Base = None, output: Home = None) -> None:
    """Measure an adapter on examples, beside its base model."""
    _run(_measure([adapter], data, version, base, output))


@cli.command()
def compare(first: str, second: str, data: Data, base: Base = None, output: Home = None) -> None:
    """Measure two adapters of one base model on the same examples."""
    _run(_measure([first, second], data, None, base, output))


async def _measure(adapters: list[str], data: str, version: int | None, base: str | None, output: Path | None) -> None:
    import math

    from rich.console import Console
    from rich.table import Table

    from aos.lora.data import read_examples
    from aos.lora.errors import need_torch
    from aos.lora.folder import find
    from aos.lora.inference import AdapterModel
    from aos.lora.sources import local_data
    from aos.lora.training import read_report

    need_torch()
    folders = {name: find(_home(output), name, version) for name in adapters}
    bases = {read_report(folder).model_name for folder in folders.values()}
    if base is None and len(bases) > 1:
        raise SettingError(
            f"The adapters have different base models ({', '.join(sorted(bases))}); name one with --base."
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as scratch, console.status("Evaluating"):
        examples = read_examples(await local_data(data, load_settings(), Path(scratch))).examples
        model = await asyncio.to_thread(AdapterModel, base or bases.pop(), folders)
        losses = {name: await asyncio.to_thread(model.loss, name, examples) for name in (None, *adapters)}
    table = Table("model", "loss (nats/token)", "perplexity", title=f"{len(examples)} examples of {data}")
    for name, loss in losses.items():
        table.add_row(name or "base model", f"{loss:.4f}", f"{math.exp(min(loss, 700)):.3f}")
    console.print(table)


@cli.command()
def serve(
    adapters: Annotated[list[str] | None, typer.Argument(help="All of the folder without names.")] = None,
    base: Base = None,
    output: Home = None,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
) -> None:
    """Serve the base model and its adapters, OpenAI-compatible, under their deployments' names."""
    _run(_serve(adapters or [], base, output, host, port))


async def _serve(adapters: list[str], base: str | None, output: Path | None, host: str, port: int) -> None:
    import socket

    import uvicorn
    from rich.console import Console

    from aos.lora.errors import need_torch
    from aos.lora.folder import find, newest
    from aos.lora.inference import AdapterModel
    from aos.lora.serving import adapter_app, deployments
    from aos.lora.training import read_report

    need_torch()
    home = _home(output)
    folders = {name: find(home, name) for name in adapters} or newest(home)
    bases = {read_report(folder).model_name for folder in folders.values()}
    if base is None and len(bases) == 1:
        base = bases.pop()
    console = Console()
    listener = socket.create_server((host, port))
    with console.status("Loading the model"):
        model = await asyncio.to_thread(AdapterModel, _base(base), folders)
    names = deployments(load_settings().model_deployment, folders)
    url = f"http://{host}:{listener.getsockname()[1]}/v1"
    console.print(f"Serving {', '.join(names)} at {url}", soft_wrap=True)
    server = uvicorn.Server(uvicorn.Config(adapter_app(model, names), log_level="warning", lifespan="off"))
    await server.serve(sockets=[listener])


def _facts(report: TrainingReport) -> list[tuple[str, str]]:
    return [
        ("base model", report.model_name),
        ("examples", f"{report.examples}, {report.eval_examples} kept for evaluation"),
        ("data", f"sha256 {report.data_hash}"),
        ("rank, alpha", f"{report.config.r}, {report.config.lora_alpha}"),
        ("target modules", ", ".join(report.config.target_modules)),
        ("trained parameters", f"{report.trained_parameters:,} of {report.all_parameters:,}"),
        ("steps", f"{report.steps}" + (f", resumed from {report.resumed_from}" if report.resumed_from else "")),
        ("loss", f"{_loss(report.first_loss)} at first, {_loss(report.train_loss)} at last"),
        ("evaluation loss", f"{_loss(report.eval_loss)}, {_loss(report.base_eval_loss)} without the adapter"),
    ]


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _show(rows: list[tuple[str, str]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False).print(table)


def _home(output: Path | None) -> Path:
    return output or Path(load_settings().adapters_dir)


def _base(base: str | None) -> str:
    name = base or load_settings().base_model
    if not name:
        raise SettingError("No base model: give --base FOLDER_OR_NAME, or set AOS_BASE_MODEL.")
    return name


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except AosError as error:
        typer.secho(error.detail, fg="red", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
