"""The same exchange through both bindings: `python -m aos serve`, and `function_app.py` under the worker's code."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx2
from azure.servicebus import ServiceBusReceivedMessage

from tests.e2e.harness import World
from tests.functions_worker import FunctionsWorker

FUNCTION_KEY, ADMIN_KEY, CEO_KEY = (f"{name}-key-of-the-tests" for name in ("function", "admin", "limited"))
FULL_KEYS = {letter: f"full-{letter}-key-of-the-tests" for letter in ("asgi", "func")}
KEYS = json.dumps(
    {
        "shop": {"key": CEO_KEY, "scopes": ["agents/ceo:run", "agents/ceo:read"]},
        **{f"full-{side}": {"key": key, "scopes": [f"agents/full-{side}:run"]} for side, key in FULL_KEYS.items()},
    }
)
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

OF_THE_SERVER = frozenset({"date", "server", "content-length", "transfer-encoding", "connection"})
"""Headers that a server adds to what the application answers; on Azure the host is the server."""
OF_THE_MOMENT = frozenset(
    {
        *(
            "accepted_at",
            "created_at",
            "decided_at",
            "ended_at",
            "expires_at",
            "finished_at",
            "last_event_at",
            "requested_at",
        ),
        *("deadline", "heartbeat_at", "listed_at", "since", "started_at", "timestamp", "updated_at"),
    }
)
OF_THE_RUN = frozenset({"counters", "duration_ms", "execution_time_ms", "retry_after_seconds", "roles"})
"""Members of bodies that say when, how long, how often, and which half of the work the process does."""
_ID = re.compile(r"\b(op|c|w|rq)_[a-z0-9]{26,52}\b")

_SIDE = re.compile(r"-(asgi|func)\b")

Holds = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class Answer:
    """What came back, as it came."""

    route: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded


@dataclass
class Side(ABC):
    """One binding. `letter` keeps apart what the two sides make in the storage that they share."""

    letter: str
    log: list[Answer] = field(default_factory=list)

    def name(self, what: str) -> str:
        """A name of this side."""
        return f"{what}-{self.letter}"

    async def send(
        self,
        route: str,
        request: str,
        body: object = b"",
        *,
        key: str | None = FUNCTION_KEY,
        **headers: str,
    ) -> Answer:
        """An exchange that is compared. `body` is sent as it is, or as JSON; `headers` with `_` for `-`."""
        answer = await self.look(route, request, body, key=key, **headers)
        self.log.append(answer)
        return answer

    async def look(
        self, route: str, request: str, body: object = b"", *, key: str | None = ADMIN_KEY, **headers: str
    ) -> Answer:
        """The same, apart from the comparison."""
        method, _, path = request.partition(" ")
        sent = {
            "accept-encoding": "identity",
            "x-request-id": "same",
            "traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01",
        }
        if key is not None:
            sent["x-functions-key"] = key
        if body != b"":
            sent["content-type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Answer(route, *await self._http(route, method, f"/api/{path}", sent, data))

    async def until(self, route: str, request: str, holds: Holds, seconds: float = 60.0) -> dict[str, Any]:
        """Looks until the answer is as wanted; fails with the last one."""
        body: dict[str, Any] = {}
        try:
            async with asyncio.timeout(seconds):
                while not holds(body):
                    await asyncio.sleep(0.05)
                    body = (await self.look(route, request)).json
        except TimeoutError:
            raise AssertionError(f"{request} after {seconds} s: {json.dumps(body, indent=1)}") from None
        return body

    @abstractmethod
    async def _http(
        self, route: str, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]: ...

    @abstractmethod
    async def deliver(self, route: str, entity: str, body: object, **properties: Any) -> None:
        """A message of the bus, with the properties as the SDK names them."""


class Asgi(Side):
    """Over sockets: HTTP to the server, messages through the broker."""

    def __init__(self, world: World, client: httpx2.AsyncClient) -> None:
        super().__init__("asgi")
        self.world = world
        self._client = client

    async def _http(
        self, route: str, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        del route
        answer = await self._client.request(method, path, headers=headers, content=body)
        return answer.status_code, dict(answer.headers), answer.content

    async def deliver(self, route: str, entity: str, body: object, **properties: Any) -> None:
        del route
        await self.world.client.send(entity, body, **properties)


class Functions(Side):
    """As the host does it: a path is matched to a function, and the worker's code invokes it."""

    WIRE: ClassVar = {"message_id": "MessageId", "correlation_id": "CorrelationId", "reply_to": "ReplyTo"}

    def __init__(self, worker: FunctionsWorker) -> None:
        super().__init__("func")
        self._worker = worker

    async def _http(
        self, route: str, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        target = self._worker.match(method, path.partition("?")[0])
        assert target is not None, f"the host finds no function for {method} {path}"
        name, parameters = target
        assert name == route
        status, sent, data = await self._worker.invoke_http(
            name, method, f"http://127.0.0.1{path}", headers, body, parameters
        )
        # As the client of the other side does it.
        return status, sent, gzip.decompress(data) if sent.get("content-encoding") == "gzip" else data

    async def deliver(self, route: str, entity: str, body: object, **properties: Any) -> None:
        queue = self._worker.functions[route].trigger
        assert entity in (queue.get("queueName"), queue.get("topicName"))
        metadata = {self.WIRE[name]: value for name, value in properties.items()}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self._worker.invoke_service_bus(route, data, {"MessageId": uuid.uuid4().hex, **metadata})


class Plain:
    """Takes out of answers what two answers to the same request may differ in; equal ids become equal names."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def text(self, text: str) -> str:
        return _ID.sub(self._name, _SIDE.sub("-<side>", text))

    def value(self, value: Any, key: str = "") -> Any:
        if key in OF_THE_MOMENT | OF_THE_RUN and value is not None:
            return f"<{key}>"
        if isinstance(value, dict):
            return {self.text(name): self.value(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def _name(self, found: re.Match[str]) -> str:
        return self._names.setdefault(found[0], f"<{found[1]} {len(self._names) + 1}>")


def compared(answer: Answer) -> object:
    """What has to be the same on both sides."""
    plain = Plain()
    headers = {name: plain.text(value) for name, value in answer.headers.items() if name not in OF_THE_SERVER}
    # The number of the span is new for every request; the trace is the caller's.
    headers["traceresponse"] = headers["traceresponse"].split("-")[1]
    media_type = headers.get("content-type", "")
    if answer.status == 204:
        # azure.functions gives every answer a type, even one without a body.
        headers.pop("content-type", None)
    if media_type == "text/event-stream":
        return answer.route, answer.status, headers, events(answer.body.decode(), plain)
    decoded = json.loads(answer.body) if media_type.endswith("json") else answer.body
    return answer.route, answer.status, headers, plain.value(decoded)


def compared_message(message: ServiceBusReceivedMessage) -> object:
    """A message that AOS sent, likewise; its trace is the one of what it answers."""
    plain = Plain()
    data = b"".join(message.body)
    try:
        body = plain.value(json.loads(data))
    except ValueError:
        body = data
    properties = {_text(name): _text(value) for name, value in (message.application_properties or {}).items()}
    properties.pop("traceparent", None)
    ids = [message.message_id, message.correlation_id, message.subject, message.session_id, message.content_type]
    return [plain.text(part or "") for part in ids], plain.value(properties), body


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def events(text: str, plain: Plain) -> list[object]:
    """Events in order; text comes in as many pieces as it happens to, so the pieces are put together."""
    told: list[object] = []
    said = ""
    for block in text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        decoded = json.loads(data.removeprefix("data: "))
        if name == "event: delta":
            said += decoded["text"]
        else:
            told.append((name, plain.value(decoded)))
    return [*told, ("said", said)]
