"""Where telemetry goes: the real exporters, in processes of their own, because a process sets them up once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORK = """
import json, sys
from opentelemetry import trace
from aos.config import load_settings
from aos.telemetry.setup import configure
flush = configure(load_settings(), hosted="hosted" in sys.argv)
from aos.telemetry import instruments
with trace.get_tracer("test").start_as_current_span("work") as span:
    instruments.TURNS.add(3, {"gen_ai.agent.id": "ceo"})
flush()
loaded = [name for name in ("opentelemetry.sdk", "azure.monitor", "opentelemetry.exporter") if name in sys.modules]
print(json.dumps({"recording": span.is_recording() or bool(span.get_span_context().trace_id), "loaded": loaded}))
"""


def run(*arguments: str, code: str = WORK, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "APPLICATIONINSIGHTS"))}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**known, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_nothing_set_loads_nothing() -> None:
    done = run()
    assert json.loads(done.stdout) == {"recording": False, "loaded": []}


def test_on_a_host_azure_monitor_is_the_workers_matter() -> None:
    connection = "InstrumentationKey=00000000-0000-0000-0000-000000000000;IngestionEndpoint=http://127.0.0.1:9/"
    done = run("hosted", APPLICATIONINSIGHTS_CONNECTION_STRING=connection)
    assert json.loads(done.stdout) == {"recording": False, "loaded": []}, done.stderr


def test_on_the_console() -> None:
    span, metrics, end = map(json.loads, run(AOS_TELEMETRY="console", AOS_APP_NAME="shop").stdout.splitlines())
    assert span["name"] == "work"
    assert span["resource"]["attributes"]["service.name"] == "shop"
    (metric,) = metrics["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    assert (metric["name"], metric["data"]["data_points"][0]["value"]) == ("aos.turns", 3)
    assert end["recording"]


@pytest.fixture
def collector() -> Iterator[tuple[str, dict[str, bytes]]]:
    """An OpenTelemetry collector's address, and what was posted to it by path."""
    posted: dict[str, bytes] = {}

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted[self.path] = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()
    thread.join()
    server.server_close()


def test_to_a_collector(collector: tuple[str, dict[str, bytes]]) -> None:
    address, posted = collector
    done = run(OTEL_EXPORTER_OTLP_ENDPOINT=address)
    assert json.loads(done.stdout)["recording"], done.stderr
    assert set(posted) == {"/v1/traces", "/v1/metrics"}
    assert b"work" in posted["/v1/traces"]
    assert b"aos.turns" in posted["/v1/metrics"]


def test_to_azure_monitor(collector: tuple[str, dict[str, bytes]]) -> None:
    address, posted = collector
    connection = f"InstrumentationKey=00000000-0000-0000-0000-000000000000;IngestionEndpoint={address}/"
    quiet = {"APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "requests"}
    done = run(APPLICATIONINSIGHTS_CONNECTION_STRING=connection, **quiet)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["recording"]
    assert posted.keys() == {"/v2.1/track"}


def test_a_package_that_is_missing_is_named() -> None:
    code = f"import sys; sys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None\n{WORK}"
    done = run(code=code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode != 0
    assert "Telemetry needs opentelemetry.exporter.otlp.proto.http.trace_exporter: install" in done.stderr
