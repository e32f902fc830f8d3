"""``python -m emulators.foundry``: serve the emulated project until interrupted."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from emulators.foundry.database import StateUnavailable
from emulators.foundry.deployments import read_deployments
from emulators.foundry.responses_api import DEFAULT_CONTEXT_WINDOW
from emulators.foundry.run_engine import DEFAULT_RUN_EXPIRY
from emulators.foundry.server import FoundryEmulator


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m emulators.foundry", description=__doc__)
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (8765)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--model", default="offline", help="offline, or the URL of an OpenAI-compatible server")
    parser.add_argument("--db", help="SQLite file; without it the state lives in memory")
    parser.add_argument("--deployments", type=Path, help="JSON list of deployment names or objects")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="time before the model begins to answer")
    parser.add_argument("--on-disconnect", choices=("finish", "drop"), default="finish")
    parser.add_argument("--context-window", type=int, default=DEFAULT_CONTEXT_WINDOW, help="input tokens accepted")
    parser.add_argument(
        "--run-expiry-seconds", type=float, default=DEFAULT_RUN_EXPIRY, help="life of a run of a thread"
    )
    parser.add_argument("--no-threads", action="store_true", help="refuse new assistants, threads and runs (403)")
    return parser.parse_args(argv)


async def _serve(options: argparse.Namespace) -> None:
    emulator = FoundryEmulator(
        options.port,
        options.model,
        options.db,
        None if options.deployments is None else read_deployments(options.deployments),
        host=options.host,
        latency_ms=options.latency_ms,
        on_disconnect=options.on_disconnect,
        context_window=options.context_window,
        run_expiry=options.run_expiry_seconds,
        threads=not options.no_threads,
    )
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with emulator:
        print(emulator.endpoint, flush=True)
        await stopped.wait()


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 after an interrupt, 2 with one line on stderr if it cannot start."""
    options = _arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_serve(options))
    except (OSError, ValueError, StateUnavailable) as error:
        print(f"foundry emulator: cannot start on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
