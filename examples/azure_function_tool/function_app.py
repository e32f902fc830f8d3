"""The Azure Functions entry of the example: publish the repository with this file as its `function_app.py`."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

from examples.azure_function_tool.routes import Replies, open_replies, routes
from runtime import RuntimeConfig, create_runtime

CONNECTION = "AzureWebJobsStorage"
# The host has no stop hook: what is opened here lives as long as the process.
_opened = AsyncExitStack()


async def initialize() -> Replies:
    return await _opened.enter_async_context(open_replies(CONNECTION, os.environ))


app = create_runtime(
    RuntimeConfig(app_name="loan-cost"), routes(CONNECTION), app_initializer=initialize, settings=os.environ
).get_func_app()
