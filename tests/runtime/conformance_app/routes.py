"""Routes that exercise everything a binding must do alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal

import azure.functions as func
from pydantic import BaseModel, Field

from runtime import (
    AuthLevel,
    BusMessage,
    HttpMethod,
    Keys,
    NamedKey,
    Parameter,
    Problem,
    Request,
    Response,
    RouteRegistry,
    TimerTick,
)

ADMIN_KEY = "admin-key-of-the-tests"
FUNCTION_KEY = "function-key-of-the-tests"
LIMITED_KEY = "limited-key-of-the-tests"
LIMITED = NamedKey(LIMITED_KEY, frozenset({"items/7:read"}))
KEYS = Keys(function=FUNCTION_KEY, admin=ADMIN_KEY, named={"limited": LIMITED})
LONG_TEXT = "It was a dark and stormy night. " * 64


class Order(BaseModel):
    item: str
    amount: int


class Receipt(BaseModel):
    item: str
    at: datetime


@dataclass
class Recorder:
    """The application behind the routes: it fails to start when told to, and keeps what reached it."""

    fail_starts: int = 0
    starts: int = 0
    events: list[dict[str, object]] = field(default_factory=list)

    async def initialize(self) -> Recorder:
        self.starts += 1
        if self.starts <= self.fail_starts:
            raise RuntimeError("SHOP_DATABASE is not set")
        return self


async def echo(request: Request) -> dict[str, object]:
    return {
        "method": request.method,
        "path": request.path,
        "route_params": dict(request.route_params),
        "query": dict(request.query),
        "test_header": request.headers.get("X-Test-Header"),
        "body": request.text(),
        "caller": [request.caller.kind, request.caller.name, request.caller.is_admin],
        "has_app": isinstance(request.app, Recorder),
        "request_id": request.request_id,
    }


def sync_text(request: Request) -> str:
    return f"sync {request.params.get('name', 'nobody')}"


async def none(request: Request) -> None:
    del request


async def raw(request: Request) -> bytes:
    return request.get_body()


async def listing(request: Request) -> list[object]:
    del request
    return [1, None, float("nan"), datetime(2026, 1, 2, 3, 4, 5)]


async def order(request: Request) -> Receipt:
    return Receipt(item=request.parse(Order).item, at=datetime(2026, 1, 2))


async def created(request: Request) -> Response:
    return Response(201, {"id": request.route_params["id"]}, {"Location": "/api/things/7", "ETag": '"1"'})


async def native(request: Request) -> func.HttpResponse:
    del request
    return func.HttpResponse('{"ok": true}', status_code=202, mimetype="application/json", headers={"X-Native": "1"})


async def refuses(request: Request) -> None:
    del request
    raise Problem(409, "agent_stopped", "The agent is stopped", "Start it first.", headers={"Retry-After": "7"})


async def crashes(request: Request) -> None:
    raise ZeroDivisionError(f"secret of {request.path}")


async def pair(request: Request) -> tuple[str, int]:
    del request
    return "text", 200


async def bad_header(request: Request) -> Response:
    del request
    return Response(200, "x", {"X-Bad": "a\r\nSet-Cookie: b"})


async def streamed(request: Request) -> Response:
    del request

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield f"data: {number}\n\n".encode()

    return Response(media_type="text/event-stream", stream=pieces())


async def long_text(request: Request) -> str:
    del request
    return LONG_TEXT


async def long_private_text(request: Request) -> Response:
    del request
    return Response(body=LONG_TEXT, headers={"Cache-Control": "private, max-age=60"})


async def on_bus(message: BusMessage) -> None:
    app: Recorder = message.app
    if message.body == b"fail":
        raise RuntimeError("cannot handle this")
    app.events.append(
        {
            "entity": message.entity,
            "body": message.body.decode(),
            "message_id": message.message_id,
            "correlation_id": message.correlation_id,
            "reply_to": message.reply_to,
            "reply_to_session_id": message.reply_to_session_id,
            "session_id": message.session_id,
            "subject": message.subject,
            "content_type": message.content_type,
            "properties": dict(message.application_properties),
            "delivery_count": message.delivery_count,
            "has_enqueued_time": message.enqueued_time is not None,
            "has_sequence_number": message.sequence_number is not None,
        }
    )


async def on_tick(tick: TimerTick) -> None:
    app: Recorder = tick.app
    app.events.append({"timer": tick.name, "at": tick.scheduled_for.isoformat(), "past_due": tick.past_due})


async def events(request: Request) -> list[dict[str, object]]:
    app: Recorder = request.app
    return app.events


def build_registry() -> RouteRegistry:
    registry = RouteRegistry()
    anonymous = AuthLevel.ANONYMOUS
    everything = [method for method in HttpMethod if method is not HttpMethod.HEAD]
    registry.register("api/echo/{first}/{second}", echo, everything, anonymous, name="echo")
    registry.register("echo/{first}/literal", sync_text, auth_level=anonymous, name="a_literal")
    registry.register("sync", sync_text, auth_level=anonymous)
    registry.register("none", none, auth_level=anonymous)
    registry.register("raw", raw, ["POST"], anonymous, max_body_bytes=100)
    registry.register("listing", listing, auth_level=anonymous)
    registry.register("orders", order, ["POST"], anonymous, request_model=Order, response_model=Receipt)
    registry.register("things/{id}", created, ["PUT"], anonymous)
    registry.register("things/{thing_id}", none, ["DELETE"], anonymous)
    registry.register("native", native, auth_level=anonymous)
    registry.register("refuses", refuses, auth_level=anonymous)
    registry.register("crashes", crashes, auth_level=anonymous)
    registry.register("pair", pair, auth_level=anonymous)
    registry.register("bad-header", bad_header, auth_level=anonymous)
    registry.register("streamed", streamed, auth_level=anonymous)
    registry.register("keyed", echo, auth_level=AuthLevel.FUNCTION)
    registry.register("owned", echo, auth_level=AuthLevel.ADMIN)
    registry.register(
        "pages/{number}",
        echo,
        auth_level=anonymous,
        parameters=(
            Parameter("number", "path", int),
            Parameter("size", kind=Annotated[int, Field(ge=1)]),
            Parameter("order", kind=Literal["asc", "desc"]),
            Parameter("x-shop", "header", required=True),
        ),
    )
    registry.register("long", long_text, auth_level=anonymous)
    registry.register("secret", long_text, auth_level=anonymous, sensitive=True)
    registry.register("private-secret", long_private_text, auth_level=anonymous, sensitive=True)
    registry.register("items/{id}", echo, scopes=("items/{id}:read",))
    registry.register("events", events, auth_level=anonymous)
    registry.register_queue("aos-requests", on_bus, connection="BUS", name="from_queue")
    registry.register_topic("agent-events", "realm-agents", on_bus, connection="BUS", name="from_topic", sessions=True)
    registry.register_timer("sweep", "0 */5 * * * *", on_tick)
    return registry
