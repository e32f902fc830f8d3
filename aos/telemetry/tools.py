"""A tool's execution on the MCP side as a span `execute_tool {tool}` and metrics; requests to servers below it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.trace import Span, SpanKind, StatusCode, use_span

from aos.telemetry import content, instruments
from aos.telemetry.harmless import error_type, harmless
from aos.telemetry.places import NAME, watched

_tracer = trace.get_tracer(NAME)


class Execution:
    """Around one call of a tool, with its retries; what is raised within is its outcome.

    Attributes:
        outcome: `succeeded`, `failed` (the tool says so) or the code of the error.
    """

    def __init__(self, server: str, tool: str, request_id: str, arguments: Mapping[str, Any]) -> None:
        self._began = time.perf_counter()
        self._labels = {"aos.mcp.server": server, "gen_ai.tool.name": tool}
        self.outcome = "succeeded"
        self.span: Span = trace.INVALID_SPAN
        self._current: AbstractContextManager[Span] | None = None
        if not watched():
            return
        with harmless():
            attributes = {
                **self._labels,
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.type": "extension",
                "gen_ai.tool.call.id": request_id,
                "mcp.method.name": "tools/call",
            }
            self.span = _tracer.start_span(f"execute_tool {tool}", kind=SpanKind.INTERNAL, attributes=attributes)
            self._current = use_span(self.span, record_exception=False, set_status_on_exception=False)
            if self.span.is_recording() and content.captured():
                told = content.cut(json.dumps(dict(arguments), ensure_ascii=False))
                self.span.set_attribute("gen_ai.tool.call.arguments", told)

    def answered(self, result: Mapping[str, Any]) -> None:
        """The tool answered with MCP's CallToolResult."""
        if result.get("isError"):
            self.outcome = "failed"
        with harmless():
            if self.span.is_recording() and content.captured():
                told = content.cut(json.dumps(dict(result), ensure_ascii=False))
                self.span.set_attribute("gen_ai.tool.call.result", told)

    def __enter__(self) -> Self:
        if self._current is not None:
            self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.outcome = error_type(error)
        if self._current is not None:
            self._current.__exit__(kind, error, traceback)
        self._end()

    def _end(self) -> None:
        with harmless():
            labels = {**self._labels, "aos.outcome": self.outcome}
            instruments.TOOL_CALLS.add(1, labels)
            instruments.TOOL_DURATION.record(time.perf_counter() - self._began, labels)
            self.span.set_attribute("aos.outcome", self.outcome)
            if self.outcome != "succeeded":
                self.span.set_attribute("error.type", "tool_error" if self.outcome == "failed" else self.outcome)
                self.span.set_status(StatusCode.ERROR)
            self.span.end()


def asking(method: str, request_id: int, params: dict[str, Any]) -> AbstractContextManager[None]:
    """Around a request to an MCP server, named as MCP's SDK names its own; `_meta` of `params` gets the trace."""
    if watched():
        return _asking(method, request_id, params)
    if trace.get_current_span().get_span_context().is_valid:
        # The trace of a caller is passed on all the same.
        _pass_on(params)
    return nullcontext()


@contextmanager
def _asking(method: str, request_id: int, params: dict[str, Any]) -> Iterator[None]:
    span: Span = trace.INVALID_SPAN
    with harmless():
        target = params.get("name")
        name = f"MCP send {method} {target}" if isinstance(target, str) else f"MCP send {method}"
        attributes = {"mcp.method.name": method, "jsonrpc.request.id": str(request_id)}
        span = _tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        _pass_on(params)
        try:
            yield
        except BaseException as error:
            with harmless():
                code = getattr(error, "code", None)
                if isinstance(code, int):
                    # Of a server that refuses (OpenTelemetry, semantic conventions for MCP).
                    span.set_attributes({"error.type": str(code), "rpc.response.status_code": str(code)})
                else:
                    span.set_attribute("error.type", error_type(error))
                span.set_status(StatusCode.ERROR)
            raise


def _pass_on(params: dict[str, Any]) -> None:
    with harmless():
        meta: dict[str, Any] = dict(params.get("_meta") or {})
        inject(meta)
        if meta:
            params["_meta"] = meta
