"""``python -m emulators.servicebus``: the emulator in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from emulators.servicebus.config import ConfigError, load_entities
from emulators.servicebus.entities import MAX_QUEUE_BYTES
from emulators.servicebus.server import DEFAULT_MAX_MESSAGE_BYTES, MIN_MAX_MESSAGE_BYTES, ServiceBusEmulator
from emulators.servicebus.store import StoreError

DEFAULT_PORT = 5672
USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code: 0, 1 if the database failed, 2 if it could not start."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        emulator = ServiceBusEmulator(
            load_entities(options.config),
            port=options.port,
            host=options.host,
            db=options.db,
            max_message_bytes=options.max_message_bytes,
            max_queue_bytes=options.max_queue_bytes,
        )
        return asyncio.run(_serve(emulator))
    except (ConfigError, StoreError) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}", file=sys.stderr)
    return USAGE_ERROR


async def _serve(emulator: ServiceBusEmulator) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # event loops on Windows have no signal handlers
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    async with emulator:
        print(emulator.connection_string, flush=True)
        ended = [asyncio.create_task(stop.wait()), asyncio.create_task(emulator.wait_failed())]
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
    return 1 if emulator.failure is not None else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m emulators.servicebus", description=__doc__)
    parser.add_argument(
        "--port", type=_Number(0, 65_535), default=DEFAULT_PORT, help="0 takes a free one (%(default)s)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--config", metavar="FILE", help="entities, in the JSON form of Microsoft's emulator")
    parser.add_argument("--db", metavar="FILE", help="SQLite file that keeps everything; without it, memory does")
    parser.add_argument(
        "--max-message-bytes",
        type=_Number(MIN_MAX_MESSAGE_BYTES, 100 << 20),
        default=DEFAULT_MAX_MESSAGE_BYTES,
        help="largest message and largest batch (%(default)s)",
    )
    parser.add_argument(
        "--max-queue-bytes",
        type=_Number(1 << 20, 1 << 40),
        default=MAX_QUEUE_BYTES,
        help="most that one queue or subscription holds (%(default)s)",
    )
    return parser


class _Number:
    """Parses a whole number between two bounds."""

    def __init__(self, minimum: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum

    def __call__(self, text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if not self._minimum <= value <= self._maximum:
            raise argparse.ArgumentTypeError(f"has to be a whole number from {self._minimum} to {self._maximum}")
        return value


if __name__ == "__main__":
    sys.exit(main())
