from __future__ import annotations

import os

from runtime import RuntimeConfig, create_runtime
from tests.conformance.triggers_app.recorder import KEYS, Recorder, build_registry


async def initialize() -> Recorder:
    if os.environ.get("CANNOT_START"):
        raise RuntimeError("SHOP_DATABASE is not set")
    return Recorder()


runtime = create_runtime(
    RuntimeConfig(app_name="AOS"),
    build_registry(),
    initialize,
    keys=KEYS,
    settings={"AZURE_SERVICE_BUS_CONNECTION_STRING": "here", "AZURE_STORAGE_CONNECTION_STRING": "here"},
)
app = runtime.get_func_app()
