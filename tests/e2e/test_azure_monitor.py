"""Telemetry in Azure is exported once: the real worker and the real exporter, before an endpoint that keeps all."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.e2e.harness import PATIENCE, ROOT, World
from tests.functions_worker import FunctionsWorker

TRACE_ID, HOST_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Ingestion:
    """An ingestion endpoint of Application Insights, and the envelopes that it was sent."""

    def __init__(self) -> None:
        self.envelopes: list[dict[str, Any]] = []
        kept = self.envelopes

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                items = json.loads(body) if self.path.endswith("/track") else []
                kept.extend(items)
                told = {"itemsReceived": len(items), "itemsAccepted": len(items), "errors": []}
                answer = json.dumps(told).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The `baseData` of all envelopes of a type, with the tags and the time that identify them."""
        return [
            {**envelope["data"]["baseData"], "tags": envelope["tags"], "time": envelope["time"]}
            for envelope in self.envelopes
            if envelope["data"]["baseType"] == kind
        ]

    def names(self) -> Counter[str]:
        """How many spans of each name were sent."""
        return Counter(span["name"] for span in self.of("RemoteDependencyData"))


@pytest.fixture
def ingestion() -> Iterator[Ingestion]:
    endpoint = Ingestion()
    endpoint.start()
    yield endpoint
    endpoint.stop()


def function_settings() -> dict[str, str]:
    """The literal settings of telemetry that the infrastructure gives the function app."""
    bicep = (ROOT / "infra/modules/function.bicep").read_text(encoding="utf-8")
    names = ("PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS")
    return {name: re.findall(rf"{name}: '([^']+)'", bicep)[0] for name in names}


async def test_each_span_line_and_metric_is_exported_once(aos: World, ingestion: Ingestion) -> None:
    connection = (
        "InstrumentationKey=00000000-0000-0000-0000-000000000000;"
        f"IngestionEndpoint={ingestion.address};LiveEndpoint={ingestion.address}"
    )
    environ = {
        **aos.stack.environment,
        **function_settings(),
        "AOS_ROLES": "agents",
        "APPLICATIONINSIGHTS_CONNECTION_STRING": connection,
        "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
        # By default some five traces a second are kept.
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_BLRP_SCHEDULE_DELAY": "100",
        # Metrics at the end alone, however long it takes until then.
        "OTEL_METRIC_EXPORT_INTERVAL": "600000",
    }

    def failures() -> list[str]:
        lines = [line["message"] for line in ingestion.of("MessageData")]
        return [line for line in lines if line.startswith("turn failed: ")]

    async with FunctionsWorker(ROOT, environ=environ) as worker:
        worker.host_span = f"00-{TRACE_ID}-{HOST_SPAN}-01"
        operations = []
        for message in ("@say done", "@fail content_filter"):
            body = json.dumps({"message": message, "timeout_seconds": 60}).encode()
            status, _, answer = await worker.invoke_http(
                "ask", "POST", "http://localhost/api/agents/cto", body=body, route_params={"agent_id": "cto"}
            )
            assert status == 200, answer
            operations.append(json.loads(answer))
        assert [operation["status"] for operation in operations] == ["completed", "failed"]
        # So the worker tells the host that it exports by itself, and that its lines are not the host's to export.
        assert worker.capabilities["WorkerOpenTelemetryEnabled"] == "true"
        # A turn is told of and counted after its answer.
        async with asyncio.timeout(PATIENCE):
            while not (ingestion.names()["invoke_agent cto"] == 2 and failures()):  # noqa: ASYNC110  # a thread serves
                await asyncio.sleep(0.05)
        printed = worker.log()
    # The rest is sent when the process ends.
    failed = operations[1]["operation_id"]

    spans = [span for span in ingestion.of("RemoteDependencyData") if span["tags"]["ai.operation.id"] == TRACE_ID]
    names = Counter(span["name"] for span in spans)
    assert set(Counter(span["id"] for span in spans).values()) == {1}
    expected = {"POST agents/{agent_id}": 2, "invoke_agent cto": 2, "chat llama-3.3-70b-cto": 2}
    assert {name: names[name] for name in expected} == expected
    # The request is the host's to tell of: its span is the parent, and there is no second request.
    requests = [span for span in spans if span["name"] == "POST agents/{agent_id}"]
    assert {span["tags"]["ai.operation.parentId"] for span in requests} == {HOST_SPAN}
    assert [one for one in ingestion.of("RequestData") if one["tags"]["ai.operation.id"] == TRACE_ID] == []

    assert len([line for line in failures() if failed in line]) == 1

    turns = [
        (point["value"], metrics["properties"])
        for metrics in ingestion.of("MetricData")
        for point in metrics["metrics"]
        if point["name"] == "aos.turns"
    ]
    # What the alert on failed turns reads (infra/queries/failed_turns.kql).
    counted = {properties["aos.status"]: value for value, properties in turns}
    assert (len(turns), counted) == (2, {"completed": 1, "failed": 1})

    assert "resource_metrics" not in printed, "metrics on the console"
    assert TRACE_ID not in printed, "spans on the console"
