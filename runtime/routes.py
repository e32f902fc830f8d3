"""What an application can serve: HTTP routes, consumers of queues and topics, timers. `RouteRegistry` makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from pydantic import BaseModel

    from runtime.messages import BusMessage, Request, StorageMessage, TimerTick

HttpHandler: TypeAlias = "Callable[[Request], object]"
BusHandler: TypeAlias = "Callable[[BusMessage], object]"
TimerHandler: TypeAlias = "Callable[[TimerTick], object]"
StorageHandler: TypeAlias = "Callable[[StorageMessage], object]"

Model: TypeAlias = "type[BaseModel] | str"
"""A model of an answer; as `package.module:Name` it is imported when the OpenAPI document is made, not before."""

DEFAULT_MAX_BODY_BYTES = 1_048_576


class HttpMethod(StrEnum):
    """The methods that a route may answer (RFC 9110 section 9, RFC 5789)."""

    GET = "GET"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"
    HEAD = "HEAD"
    OPTIONS = "OPTIONS"


class AuthLevel(StrEnum):
    """Who may call a route: anyone, callers who are known, administrators."""

    ANONYMOUS = "ANONYMOUS"
    FUNCTION = "FUNCTION"
    ADMIN = "ADMIN"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an HTTP route: checked before the handler is called, described in the OpenAPI document.

    `kind` is any type that pydantic can read from text: `int`, `Literal["a", "b"]`, `Annotated[str, Field(...)]`.
    What does not fit is a 400 problem; the handler finds the text as it came in `query`, `headers`, `route_params`.
    """

    name: str
    where: Literal["query", "header", "path"] = "query"
    kind: Any = str  # a type form, which may be no class
    description: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Answers:
    """An answer of an HTTP route, for the OpenAPI document.

    `model` is its JSON body; `media_types` are further ones, with the reason for them. `headers` by name: what they
    say.
    """

    description: str
    model: Model | None = None
    media_types: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class RouteOptions(TypedDict, total=False):
    """Further settings of an HTTP route.

    parameters: what it takes in query, headers and path, beyond path parameters of any text.
    answers: what it answers by status, beyond `response_model` at 200.
    problems: statuses of problem documents that it may answer, beyond those that the runtime itself answers.
    scopes: scopes that let a caller in, each a pattern in which `{name}` stands for a path parameter. With FUNCTION a
        caller whose scopes are limited needs one of them; with ADMIN they let in callers who are no administrators.
    sensitive: the answer may hold secrets beside what the caller sent: it is neither compressed (the attack BREACH
        measures lengths) nor stored by caches.
    needs_app: whether the application must be initialised first.
    """

    parameters: tuple[Parameter, ...]
    answers: Mapping[int, Answers]
    problems: tuple[int, ...]
    scopes: tuple[str, ...]
    sensitive: bool
    needs_app: bool


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTP route. `path` has neither prefix nor leading slash; `max_body_bytes` bounds the request body.

    `declared_at` is the file and line of its registration. For the rest see `RouteOptions`.
    """

    path: str
    handler: HttpHandler
    methods: tuple[HttpMethod, ...]
    auth_level: AuthLevel
    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    request_model: type[BaseModel] | None = None
    response_model: Model | None = None
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    parameters: tuple[Parameter, ...] = ()
    answers: Mapping[int, Answers] = field(default_factory=dict)
    problems: tuple[int, ...] = ()
    scopes: tuple[str, ...] = ()
    sensitive: bool = False
    needs_app: bool = True
    declared_at: str = ""

    @property
    def segments(self) -> tuple[str, ...]:
        """The path, split at its slashes."""
        return tuple(self.path.split("/")) if self.path else ()

    @property
    def label(self) -> str:
        """How errors name it."""
        return f"HTTP route {self.path!r}"


@dataclass(frozen=True, slots=True)
class QueueRoute:
    """A Service Bus queue. `connection` is the name of a setting, as in a Functions binding.

    At most `max_concurrency` messages are in handlers at once (ASGI; on Functions host.json decides). If it is not
    `required`, the application starts without the settings of this route, and its consumer says that they are missing.
    """

    name: str
    handler: BusHandler
    connection: str
    queue: str
    sessions: bool = False
    max_concurrency: int = 16
    description: str = ""
    required: bool = True
    declared_at: str = ""

    @property
    def entity(self) -> str:
        """The queue."""
        return self.queue

    @property
    def label(self) -> str:
        """How errors name it."""
        return f"queue route {self.queue!r}"


@dataclass(frozen=True, slots=True)
class TopicRoute:
    """A subscription of a Service Bus topic; otherwise as `QueueRoute`."""

    name: str
    handler: BusHandler
    connection: str
    topic: str
    subscription: str
    sessions: bool = False
    max_concurrency: int = 16
    description: str = ""
    required: bool = True
    declared_at: str = ""

    @property
    def entity(self) -> str:
        """Topic and subscription."""
        return f"{self.topic}/{self.subscription}"

    @property
    def label(self) -> str:
        """How errors name it."""
        return f"topic route {self.entity!r}"


BusRoute: TypeAlias = QueueRoute | TopicRoute


@dataclass(frozen=True, slots=True)
class TimerRoute:
    """A timer. `schedule` is NCRONTAB with six fields, seconds first, in UTC. Missed ticks are not made up for."""

    name: str
    handler: TimerHandler
    schedule: str
    run_on_startup: bool = False
    description: str = ""
    declared_at: str = ""

    @property
    def label(self) -> str:
        """How errors name it."""
        return f"timer route {self.name!r}"


@dataclass(frozen=True, slots=True)
class StorageQueueRoute:
    """A queue of a storage account. `connection` is the name of a setting, as in a Functions binding.

    A message whose handler raised comes again; after the fifth time it goes to the queue `{queue}-poison`, as on the
    Functions host; so `queue` has at most 56 characters. At most `max_concurrency` messages are in handlers at once
    (ASGI; on Functions host.json decides).
    """

    name: str
    handler: StorageHandler
    connection: str
    queue: str
    max_concurrency: int = 16
    description: str = ""
    required: bool = True
    declared_at: str = ""

    @property
    def label(self) -> str:
        """How errors name it."""
        return f"storage queue route {self.queue!r}"


AnyRoute: TypeAlias = Route | BusRoute | TimerRoute | StorageQueueRoute


def is_setting_reference(text: str) -> bool:
    """Whether `text` is `%NAME%`: to be replaced by the setting of that name when the route is bound."""
    return len(text) > 2 and text.startswith("%") and text.endswith("%") and "%" not in text[1:-1]
