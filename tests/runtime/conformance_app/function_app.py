"""The conformance routes as a function app, which the worker indexes."""

from __future__ import annotations

from runtime import Keys, RuntimeConfig, create_runtime
from tests.runtime.conformance_app.routes import ADMIN_KEY, Recorder, build_registry

recorder = Recorder()
runtime = create_runtime(
    RuntimeConfig(app_name="conformance"), build_registry(), recorder.initialize, keys=Keys(admin=ADMIN_KEY)
)
runtime.create_startup_function()
app = runtime.get_func_app()
