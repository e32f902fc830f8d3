"""Where telemetry goes: chosen once, when the process starts. SDK and exporters are imported only if one is chosen.

On Azure Functions the worker sets up Azure Monitor itself (`PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY`) before the
app's code runs; what it set up is used, and nothing is exported a second time.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

from aos.config import Settings
from aos.errors import SettingError
from aos.telemetry.logs import add_ids

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

log = logging.getLogger("aos.telemetry")


def configure(settings: Settings, *, hosted: bool = False) -> Callable[[], None]:
    """Sends traces and metrics where the settings say; without any, nowhere.

    Args:
        hosted: The process belongs to a host that takes care of Azure Monitor.

    Returns:
        What flushes and ends it; safe to call in any case.

    Raises:
        SettingError: A destination is named whose package is not installed.
    """
    add_ids()
    insights = None if hosted else settings.insights
    if not (insights or settings.otlp_endpoint or settings.telemetry):
        return _nothing
    os.environ.setdefault("OTEL_SERVICE_NAME", settings.app_name)
    try:
        processors, readers = _destinations(settings)
        if insights:
            _azure_monitor(insights, processors, readers)
            add_ids()
            return _end
        return _sdk(processors, readers)
    except ImportError as error:
        raise SettingError(
            f"Telemetry needs {error.name}: install what requirements.txt names, or unset "
            "APPLICATIONINSIGHTS_CONNECTION_STRING, OTEL_EXPORTER_OTLP_ENDPOINT and AOS_TELEMETRY."
        ) from error


def _destinations(settings: Settings) -> tuple[list[SpanProcessor], list[MetricReader]]:
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

    processors: list[SpanProcessor] = []
    readers: list[MetricReader] = []
    if settings.otlp_endpoint:
        # They read OTEL_EXPORTER_OTLP_* themselves.
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        processors.append(BatchSpanProcessor(OTLPSpanExporter()))
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    if settings.telemetry == "console":
        processors.append(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout, formatter=_span_line)))
        readers.append(PeriodicExportingMetricReader(ConsoleMetricExporter(out=sys.stdout, formatter=_metrics_line)))
    return processors, readers


def _azure_monitor(connection_string: str, processors: list[SpanProcessor], readers: list[MetricReader]) -> None:
    # The SDKs of Azure would write spans of their own for what AOS writes, and replace `traceparent` in messages.
    os.environ.setdefault("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "azure_sdk")
    from azure.monitor.opentelemetry import configure_azure_monitor

    options: dict[str, Any] = {"span_processors": processors, "metric_readers": readers}
    configure_azure_monitor(connection_string=connection_string, **options)


def _sdk(processors: list[SpanProcessor], readers: list[MetricReader]) -> Callable[[], None]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

    known = trace.get_tracer_provider()
    if isinstance(known, TracerProvider):
        for processor in processors:
            known.add_span_processor(processor)
        log.info("traces go to what the host set up as well; metrics go there alone")
        return _end
    tracers = TracerProvider()
    for processor in processors:
        tracers.add_span_processor(processor)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider(readers))
    return _end


def _end() -> None:
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
        shutdown = getattr(provider, "shutdown", None)
        if shutdown is not None:
            shutdown()


def _nothing() -> None:
    return None


def _span_line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


def _metrics_line(data: MetricsData) -> str:
    return f"{data.to_json(indent=None)}\n"
