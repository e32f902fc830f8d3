"""What handlers take and give back, whichever binding calls them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from pydantic import BaseModel

    ModelT = TypeVar("ModelT", bound=BaseModel)

# What AMQP application properties hold once decoded (AMQP 1.0 part 3.2.5: simple types only).
PropertyValue: TypeAlias = str | int | float | bool | bytes | datetime | UUID | None


class Headers(Mapping[str, str]):
    """HTTP headers: names without regard to case (RFC 9110 section 5.1), repeated fields joined with a comma."""

    __slots__ = ("_values",)

    def __init__(self, items: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        values: dict[str, str] = {}
        for name, value in items.items() if isinstance(items, Mapping) else items:
            key = name.lower()
            values[key] = f"{values[key]}, {value}" if key in values else value
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({sorted(self._values)})"  # names only: values may be credentials


class CallerKind(StrEnum):
    """How the caller is known."""

    ANONYMOUS = "anonymous"
    KEY = "key"
    LOCAL = "local"
    TOKEN = "token"  # noqa: S105  # the word, not a token


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent the request.

    `name` is the name of the key (never its value), the object id of a user or application, "anonymous" or "local".
    `scopes` limit what the caller may do, such as `agents/ceo:run` or `agents/*:read`; None: everything that is not
    for administrators.
    """

    kind: CallerKind = CallerKind.ANONYMOUS
    name: str = "anonymous"
    is_admin: bool = False
    scopes: frozenset[str] | None = None

    def may(self, scope: str) -> bool:
        """Whether the caller may do what `scope` names, such as `agents/ceo:run`."""
        if self.is_admin:
            return True
        return self.kind is not CallerKind.ANONYMOUS and (self.scopes is None or self.holds(scope))

    def holds(self, scope: str) -> bool:
        """Whether the caller was given this scope itself; having no limits is not enough."""
        return any(_covers(pattern, scope) for pattern in self.scopes or ())


def _covers(pattern: str, scope: str) -> bool:
    """`*` in a pattern stands for one segment of the resource, or for the action."""
    known, wanted = pattern.rpartition(":"), scope.rpartition(":")
    resource, asked = known[0].split("/"), wanted[0].split("/")
    return (
        known[1] == wanted[1]
        and known[2] in (wanted[2], "*")
        and len(resource) == len(asked)
        and all(part in (other, "*") for part, other in zip(resource, asked, strict=True))
    )


# `app` below is Any: only the application knows the type of what its initializer returned.


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """An HTTP request. `params`, `get_body` and `get_json` are there for code written for `azure.functions`.

    `query` holds one value per name; repeated names are joined with a comma, as the Functions host does.
    """

    method: str
    url: str = field(repr=False)  # like the query, it may carry a key
    path: str
    headers: Headers = field(default_factory=Headers)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    route_params: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    app: Any = field(default=None, repr=False)
    request_id: str = ""
    traceparent: str = ""  # W3C Trace Context: of this request itself, for what it calls
    caller: Caller = Caller()

    @property
    def params(self) -> Mapping[str, str]:
        """The query, under the name that `azure.functions.HttpRequest` gives it."""
        return self.query

    def get_body(self) -> bytes:
        """The body."""
        return self.body

    def text(self) -> str:
        """The body as UTF-8 text; bytes that are not UTF-8 become U+FFFD."""
        return self.body.decode("utf-8", errors="replace")

    def json(self) -> Any:
        """The decoded JSON body. Raises `InvalidJson`, a 400 problem that is also a `ValueError`."""
        from runtime.parsing import parse_json

        return parse_json(self.body)

    get_json = json

    def parse(self, model: type[ModelT]) -> ModelT:
        """The body as `model`. Raises a 400 or 422 `Problem` whose `errors` point into the body."""
        from runtime.parsing import parse_model

        return parse_model(self.body, model)


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, for handlers that need more than a value.

    `body`: bytes (application/octet-stream), str (text/plain; UTF-8), dict, list or pydantic model (application/json),
    or None (empty). `media_type` overrides. With `stream` the body is produced piece by piece: ASGI sends each piece
    as it comes, Azure Functions sends them as one body.
    """

    status: int = 200
    body: bytes | str | Mapping[str, object] | list[Any] | BaseModel | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str | None = None
    stream: AsyncIterator[bytes] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BusMessage:
    """A Service Bus message. Returning from the handler completes it; raising abandons it, which means redelivery
    until the entity's MaxDeliveryCount and then the dead-letter queue.

    `entity` is "queue" or "topic/subscription". `delivery_count` is 1 on the first delivery.
    """

    body: bytes = field(repr=False)
    entity: str
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    session_id: str | None = None
    subject: str | None = None
    content_type: str | None = None
    application_properties: Mapping[str, PropertyValue] = field(default_factory=dict, repr=False)
    delivery_count: int = 1
    enqueued_time: datetime | None = None
    sequence_number: int | None = None
    app: Any = field(default=None, repr=False)

    def json(self) -> Any:
        """The decoded JSON body. Raises `InvalidJson`."""
        from runtime.parsing import parse_json

        return parse_json(self.body)

    def parse(self, model: type[ModelT]) -> ModelT:
        """The body as `model`. Raises a `Problem` whose `errors` point into the body."""
        from runtime.parsing import parse_model

        return parse_model(self.body, model)


@dataclass(frozen=True, slots=True, eq=False)
class TimerTick:
    """One due time of a timer route. `past_due`: the tick comes late (the host was down or busy)."""

    name: str
    scheduled_for: datetime
    past_due: bool = False
    app: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class StorageMessage:
    """A message of a storage queue. Returning from the handler deletes it; raising lets it come again, up to the fifth
    time, and then moves it to the queue `{queue}-poison`.

    `body` is what was sent, without the base64 that it travels in. `dequeue_count` is 1 on the first delivery.
    """

    body: bytes = field(repr=False)
    queue: str
    message_id: str
    dequeue_count: int = 1
    inserted_at: datetime | None = None
    app: Any = field(default=None, repr=False)

    def json(self) -> Any:
        """The decoded JSON body. Raises `InvalidJson`."""
        from runtime.parsing import parse_json

        return parse_json(self.body)

    def parse(self, model: type[ModelT]) -> ModelT:
        """The body as `model`. Raises a `Problem` whose `errors` point into the body."""
        from runtime.parsing import parse_model

        return parse_model(self.body, model)
