"""`python -m examples.azure_function_tool`: the function app on this machine, without the Functions host.

With the local stack: `python -m emulators run -- python -m examples.azure_function_tool`. `--ask` has an agent of the
project use the function once and prints its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys

from examples.azure_function_tool.routes import REGISTRY_ENTRY, open_replies, routes
from runtime import AsgiRuntime, Keys, RuntimeConfig

CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"


async def serve(question: str | None) -> None:
    """Consumes the input queue until it is cancelled, or, given a question, until that is answered."""
    async with open_replies(CONNECTION, os.environ) as replies:
        host = AsgiRuntime(
            RuntimeConfig(app_name="loan-cost"),
            routes(CONNECTION),
            lambda: replies,
            keys=Keys(),
            settings=os.environ,
        )
        async with host.app.router.lifespan_context(host.app):
            if question is not None:
                from examples.azure_function_tool.agent import ask

                print(await ask(question), flush=True)
                return
            print("loan-cost waits for calls", flush=True)
            await asyncio.Event().wait()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.azure_function_tool", description="A function that agents use as a tool."
    )
    parser.add_argument("--ask", metavar="QUESTION", help="have an agent use the function once, then end")
    parser.add_argument("--registry-entry", action="store_true", help="print the entry for agent_registry.json")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if options.registry_entry:
        print(json.dumps(REGISTRY_ENTRY, indent=2))
        return 0
    if not os.environ.get(CONNECTION) and not os.environ.get(f"{CONNECTION}__queueServiceUri"):
        print(f"loan-cost: {CONNECTION} is not set", file=sys.stderr)
        return 2
    try:
        asyncio.run(serve(options.ask))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
