from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

_reader = InMemoryMetricReader()
_exporter = InMemorySpanExporter()


@pytest.fixture(scope="session", autouse=True)
def sdk() -> Iterator[None]:
    """The SDK can be set up once in a process."""
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(_exporter))
    trace.set_tracer_provider(tracers)
    meters = MeterProvider([_reader])
    metrics.set_meter_provider(meters)
    yield
    tracers.shutdown()
    meters.shutdown()


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """What was written since the test began."""
    _exporter.clear()
    return _exporter


@pytest.fixture
def meters() -> InMemoryMetricReader:
    return _reader
