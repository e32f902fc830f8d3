"""The conformance routes as a function app, which the worker indexes."""

from __future__ import annotations

from runtime import RuntimeConfig, create_runtime
from tests.runtime.conformance_app.routes import KEYS, Recorder, build_registry

recorder = Recorder()
runtime = create_runtime(
    RuntimeConfig(app_name="conformance"),
    build_registry(),
    recorder.initialize,
    keys=KEYS,
    settings={"BUS": "Endpoint=sb://127.0.0.1/"},
)
runtime.create_startup_function()
app = runtime.get_func_app()
