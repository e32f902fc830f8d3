"""A function app under the code that runs it in Azure: `azure-functions-runtime` indexes, converts and invokes.

`FunctionsWorker` starts a child process per app, because the worker keeps its state in modules. What the .NET host
does around it is left out, except for matching a path to a function (`match`). The worker takes its gRPC message
classes as an argument and only reads and sets their attributes, so plain records stand in for them and neither grpcio
nor protobuf is needed. Written against azure-functions-runtime 1.3.0.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import BinaryIO, Self
from urllib.parse import parse_qsl, unquote, urlsplit

START_TIMEOUT_SECONDS = 90.0
INVOKE_TIMEOUT_SECONDS = 90.0
END_TIMEOUT_SECONDS = 30.0
LINE_LIMIT = 64 * 1_048_576

Json = dict[str, object]


class WorkerError(Exception):
    """The app could not be indexed, or a function raised: the message and traceback as the host would log them."""


@dataclass(frozen=True)
class Function:
    """An indexed function: its name and its bindings, as the host reads them (`type`, `direction`, `name`, ...)."""

    name: str
    bindings: Sequence[Mapping[str, object]]

    @property
    def trigger(self) -> Mapping[str, object]:
        """The trigger among the bindings."""
        return next(binding for binding in self.bindings if str(binding["type"]).lower().endswith("trigger"))


class FunctionsWorker:
    """`async with FunctionsWorker(app_dir) as worker:` indexes `app_dir/function_app.py`, or raises `WorkerError`.

    `python_path` comes before the app's folder (default: that folder itself, then this repository, which has a
    `function_app.py` of its own), `environ` over the environment. `python` is the interpreter that runs the app.
    """

    def __init__(
        self,
        app_dir: str | os.PathLike[str],
        *,
        environ: Mapping[str, str] | None = None,
        python_path: Sequence[str | os.PathLike[str]] | None = None,
        python: str | os.PathLike[str] = sys.executable,
    ) -> None:
        self._python = python
        self._app_dir = Path(app_dir).resolve()
        roots = [self._app_dir, Path(__file__).resolve().parent.parent] if python_path is None else python_path
        self._environ = {**os.environ, **(environ or {}), "PYTHONPATH": os.pathsep.join(os.fspath(p) for p in roots)}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._numbers = itertools.count(1)
        self._log: BinaryIO | None = None
        self.functions: dict[str, Function] = {}
        self.capabilities: Mapping[str, str] = {}
        """What the worker told the host that it can do."""
        self.host_span = ""
        """The `traceparent` of the host's own span, which it has for each invocation when it exports telemetry."""

    async def __aenter__(self) -> Self:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __aexit__
        # -P: the folder of this file must not be on the path of the app.
        self._process = await asyncio.create_subprocess_exec(
            *(self._python, "-P", __file__, str(self._app_dir)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._log,
            cwd=self._app_dir,
            env=self._environ,
            limit=LINE_LIMIT,
        )
        self._reader = asyncio.create_task(self._read_answers())
        try:
            answer = await self._ask({"do": "index"}, START_TIMEOUT_SECONDS)
            functions, capabilities = answer["functions"], answer["capabilities"]
            assert isinstance(capabilities, dict)
            self.capabilities = capabilities
            assert isinstance(functions, list)
            self.functions = {f["name"]: Function(f["name"], f["bindings"]) for f in functions}
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._reader is not None
        assert self._log is not None
        self._process.stdin.close()  # the child ends at the end of its input
        try:
            await asyncio.wait_for(self._process.wait(), END_TIMEOUT_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reader
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._process.stdin.wait_closed()
        self._log.close()

    def log(self) -> str:
        """What the app and the worker have logged so far."""
        assert self._log is not None
        return os.pread(self._log.fileno(), 1_048_576, 0).decode(errors="replace")

    def match(self, method: str, path: str) -> tuple[str, dict[str, str]] | None:
        """The function that the host would call for a path, with its route parameters: /api/...

        The first in the order of names whose template fits: the host does not prefer literals.
        """
        for function in sorted(self.functions.values(), key=lambda function: function.name.casefold()):
            trigger = function.trigger
            methods = trigger.get("methods") or ["GET", "POST"]
            if trigger["type"] != "httpTrigger" or not isinstance(methods, Iterable) or method not in methods:
                continue
            route = str(trigger.get("route") or function.name)
            pattern = "/".join(
                f"(?P<{part[1:-1]}>[^/]+)" if part.startswith("{") else re.escape(part) for part in route.split("/")
            )
            hit = re.fullmatch(f"/api/{pattern}/?", path, re.IGNORECASE)
            if hit is not None:
                params = {name: unquote(value).replace("/", "%2F") for name, value in hit.groupdict().items()}
                return function.name, params
        return None

    async def invoke_http(
        self,
        name: str,
        method: str = "GET",
        url: str = "http://localhost/",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        route_params: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Call an HTTP function; the answer's status, headers (names in lower case) and body."""
        query: dict[str, str] = {}
        for key, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
            query[key] = f"{query[key]},{value}" if key in query else value
        answer = await self._invoke(
            name,
            {
                "method": method,
                "url": url,
                "headers": dict(headers or {}),
                "query": query,
                "params": dict(route_params or {}),
                "body": base64.b64encode(body).decode(),
            },
            {},
        )
        status, sent = answer["status"], answer["headers"]
        assert isinstance(status, str)
        assert isinstance(sent, dict)
        return int(status), {k.lower(): v for k, v in sent.items()}, base64.b64decode(str(answer["body"]))

    async def invoke_service_bus(self, name: str, body: bytes, metadata: Mapping[str, object] | None = None) -> None:
        """Deliver a message. `metadata`: trigger metadata as the extension names it (`MessageId`, `DeliveryCount`,
        `ApplicationProperties`, ...). Raises `WorkerError` when the function raises: the host would abandon it."""
        properties = (metadata or {}).get("ApplicationProperties", {})
        defaults: Json = {"MessageId": "m-1", "DeliveryCount": 1, "UserProperties": properties}
        await self._invoke(name, {"bytes": base64.b64encode(body).decode()}, {**defaults, **(metadata or {})})

    async def invoke_storage_queue(self, name: str, body: bytes, metadata: Mapping[str, object] | None = None) -> None:
        """Deliver a message of a storage queue, without base64; `metadata`: `Id`, `DequeueCount`, ..."""
        given: Json = {"Id": "m-1", "DequeueCount": "1", **(metadata or {})}
        await self._invoke(name, {"bytes": base64.b64encode(body).decode()}, given)

    async def invoke_timer(
        self, name: str, *, past_due: bool = False, schedule_status: Mapping[str, str] | None = None
    ) -> None:
        """Let a timer tick. Raises `WorkerError` when the function raises."""
        status = dict(schedule_status or {})
        await self._invoke(name, {"json": json.dumps({"IsPastDue": past_due, "ScheduleStatus": status})}, {})

    async def invoke_warmup(self) -> None:
        """Warm up, as on a new instance. Raises `WorkerError` when the function raises."""
        await self._invoke("warmup", {"json": "{}"}, {})

    async def _invoke(self, name: str, data: Json, metadata: Mapping[str, object]) -> Json:
        trigger = self.functions[name].trigger["name"]
        order: Json = {"do": "invoke", "function": name, "trigger": trigger, "data": data, "metadata": dict(metadata)}
        order["host_span"] = self.host_span
        return await self._ask(order, INVOKE_TIMEOUT_SECONDS)

    async def _ask(self, order: Json, timeout: float) -> Json:
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._process.stdin.write(json.dumps({"number": number, **order}).encode() + b"\n")
        answer: Json = await asyncio.wait_for(future, timeout)
        if "error" in answer:
            raise WorkerError(str(answer["error"]))
        return answer

    async def _read_answers(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer: Json = json.loads(line)
            future = self._waiting.pop(int(str(answer["number"])))
            if not future.done():
                future.set_result(answer)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(WorkerError(f"the worker process ended:\n{self.log()[-4000:]}"))


# What follows runs in the child process.


class Message(SimpleNamespace):
    """Stands in for a gRPC message: fields are attributes, unset ones are None, nested types hang on the class."""

    def __getattr__(self, name: str) -> None:
        if not name.islower():  # the worker asks whether it was given a message or a module of messages
            raise AttributeError(name)

    def WhichOneof(self, group: str) -> str | None:  # protobuf's name
        """The one field that is set (for a parameter binding: its data)."""
        return "data" if group == "rpc_data" else next(iter(vars(self)), None)


class BindingInfo(Message):
    """FunctionRpc.proto: BindingInfo.Direction and BindingInfo.DataType."""

    undefined = 0
    out = 1
    inout = 2


class StatusResult(Message):
    """FunctionRpc.proto: StatusResult.Status."""

    Failure = 0
    Success = 1


MESSAGES = (
    *("FunctionMetadataResponse", "InvocationResponse", "ParameterBinding", "RpcException", "RpcFunctionMetadata"),
    *("RpcHttp", "RpcRetryOptions", "TypedData", "WorkerInitResponse", "WorkerMetadata"),
)
PROTOS = SimpleNamespace(BindingInfo=BindingInfo, StatusResult=StatusResult, **dict.fromkeys(MESSAGES, Message))


def _data(data: Mapping[str, object]) -> Message:
    if "method" in data:
        body = base64.b64decode(str(data["body"]))
        http = {**data, "body": Message(bytes=body) if body else Message()}
        return Message(http=Message(**http))
    if "bytes" in data:
        return Message(bytes=base64.b64decode(str(data["bytes"])))
    return Message(json=data["json"])


def _metadata(value: object) -> Message:
    return Message(string=value) if isinstance(value, str) else Message(json=json.dumps(value))


class Child:
    """Answers the orders of the parent, each in its own task, as the worker does with invocations."""

    def __init__(self, app_dir: str, answers: BinaryIO) -> None:
        self._app_dir = app_dir
        self._answers = answers
        # Not a typed package, and not installable below Python 3.13 without force: imported here alone, by name.
        self._worker = importlib.import_module("azure_functions_runtime.handle_event")
        self._ids: dict[str, str] = {}

    async def serve(self, orders: asyncio.StreamReader) -> None:
        """Until the end of the input."""
        tasks: set[asyncio.Task[None]] = set()
        async for line in orders:
            task = asyncio.create_task(self._answer(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _answer(self, order: Json) -> None:
        answer = await (self._index() if order["do"] == "index" else self._invoke(order))
        self._answers.write(json.dumps({"number": order["number"], **answer}).encode() + b"\n")
        self._answers.flush()

    async def _index(self) -> Json:
        init = Message(capabilities={}, function_app_directory=self._app_dir)
        request = Message(request=Message(worker_init_request=init), properties={"host": "localhost", "protos": PROTOS})
        response = await self._worker.worker_init_request(request)
        if response.result.status != StatusResult.Success:
            return {"error": _failure(response.result)}
        listing = await self._worker.functions_metadata_request(Message())
        found = listing.function_metadata_results or []
        self._ids = {function.name: function.function_id for function in found}
        bindings = {function.name: [json.loads(text) for text in function.raw_bindings] for function in found}
        indexed = [{"name": name, "bindings": bound} for name, bound in bindings.items()]
        return {"functions": indexed, "capabilities": response.capabilities}

    async def _invoke(self, order: Json) -> Json:
        data, metadata = order["data"], order["metadata"]
        assert isinstance(data, dict)
        assert isinstance(metadata, dict)
        invocation = Message(
            invocation_id=f"invocation-{order['number']}",
            function_id=self._ids[str(order["function"])],
            input_data=[Message(name=order["trigger"], data=_data(data))],
            trigger_metadata={name: _metadata(value) for name, value in metadata.items()},
            trace_context=Message(attributes={}, trace_parent=order["host_span"] or None),
            retry_context=Message(),
        )
        response = await self._worker.invocation_request(Message(request=Message(invocation_request=invocation)))
        if response.result.status != StatusResult.Success:
            return {"error": _failure(response.result)}
        http = response.return_value.http if response.return_value is not None else None
        if http is None:
            return {}
        body = base64.b64encode(http.body.bytes).decode()
        return {"status": http.status_code, "headers": http.headers, "body": body}


def _failure(result: Message) -> str:
    exception = getattr(result, "exception", Message())
    return f"{exception.message}\n{exception.stack_trace}"


async def _serve_child(app_dir: str) -> None:
    # Standard output is the channel to the parent: what the app prints goes to the log instead.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        sys.path.append(app_dir)  # last, as in Azure
        orders = asyncio.StreamReader(limit=LINE_LIMIT)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        try:
            await Child(app_dir, answers).serve(orders)
        finally:
            transport.close()


if __name__ == "__main__":
    asyncio.run(_serve_child(sys.argv[1]))
