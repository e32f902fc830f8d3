"""RouteRegistry: what an application serves, declared once and bound by any adapter.

Paths are relative to the prefix of the host, `api` by default on Azure Functions: "hello", "/hello" and "api/hello"
are the same route, served at /api/hello. A segment in braces, "agents/{agent_id}", is a parameter. As on the
Functions host, paths are matched without regard to case.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

    from runtime.messages import BusMessage, Request, TimerTick

HttpHandler: TypeAlias = "Callable[[Request], object]"
BusHandler: TypeAlias = "Callable[[BusMessage], object]"
TimerHandler: TypeAlias = "Callable[[TimerTick], object]"
HandlerT = TypeVar("HandlerT", bound=Callable[..., object])

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
    """Who may call a route: anyone, holders of a function key, holders of the admin key."""

    ANONYMOUS = "ANONYMOUS"
    FUNCTION = "FUNCTION"
    ADMIN = "ADMIN"


class RouteError(ValueError):
    """A route cannot be registered. The message names the route, and the file and line of its handler."""


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTP route. `path` has neither prefix nor leading slash; `max_body_bytes` bounds the request body."""

    path: str
    handler: HttpHandler
    methods: tuple[HttpMethod, ...]
    auth_level: AuthLevel
    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    request_model: type[BaseModel] | None = None
    response_model: type[BaseModel] | None = None
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES

    @property
    def segments(self) -> tuple[str, ...]:
        """The path, split at its slashes."""
        return tuple(self.path.split("/")) if self.path else ()


@dataclass(frozen=True, slots=True)
class QueueRoute:
    """A Service Bus queue. `connection` is the name of a setting, as in a Functions binding.

    At most `max_concurrency` messages are in handlers at once (ASGI; on Functions host.json decides).
    """

    name: str
    handler: BusHandler
    connection: str
    queue: str
    sessions: bool = False
    max_concurrency: int = 16
    description: str = ""


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


BusRoute: TypeAlias = QueueRoute | TopicRoute


@dataclass(frozen=True, slots=True)
class TimerRoute:
    """A timer. `schedule` is NCRONTAB with six fields, seconds first, in UTC. Missed ticks are not made up for."""

    name: str
    handler: TimerHandler
    schedule: str
    run_on_startup: bool = False
    description: str = ""


AnyRoute: TypeAlias = Route | BusRoute | TimerRoute

# Function names of the Functions host; `host` is a segment of its own API, `warmup` is bound by the runtime.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}")
_RESERVED_NAMES = frozenset({"host", "warmup"})
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")  # pchar of RFC 3986 without percent-encoding
_ENTITY = re.compile(r"%[^%\s]+%|[A-Za-z0-9]([A-Za-z0-9._/-]{0,258}[A-Za-z0-9])?")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*")


class RouteRegistry:
    """The routes of an application. Registration validates at once: a bad route is a `RouteError` at its own line.

    `default_auth_level` is the level of HTTP routes that name none.
    """

    def __init__(self, default_auth_level: AuthLevel | str = AuthLevel.FUNCTION) -> None:
        self.default_auth_level = AuthLevel(default_auth_level)
        self._routes: dict[str, AnyRoute] = {}  # by folded name, in order of registration
        self._http: dict[tuple[str, HttpMethod], Route] = {}

    @property
    def http_routes(self) -> tuple[Route, ...]:
        """The HTTP routes, in order of registration."""
        return tuple(route for route in self._routes.values() if isinstance(route, Route))

    @property
    def bus_routes(self) -> tuple[BusRoute, ...]:
        """The queue and topic routes, in order of registration."""
        return tuple(route for route in self._routes.values() if isinstance(route, (QueueRoute, TopicRoute)))

    @property
    def timer_routes(self) -> tuple[TimerRoute, ...]:
        """The timer routes, in order of registration."""
        return tuple(route for route in self._routes.values() if isinstance(route, TimerRoute))

    def register(
        self,
        path: str,
        handler: HttpHandler,
        methods: Iterable[HttpMethod | str] = (HttpMethod.GET,),
        auth_level: AuthLevel | str | None = None,
        name: str | None = None,
        description: str = "",
        tags: Iterable[str] = (),
        request_model: type[BaseModel] | None = None,
        response_model: type[BaseModel] | None = None,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    ) -> Route:
        """Declare an HTTP route; `handler` takes one `Request`.

        The name defaults to the methods and the path, as in `get_agents_agent_id`. Routes may share a path when their
        methods differ. Raises `RouteError`.
        """
        where = f"HTTP route {path!r}"
        normal = normalize_path(path)
        _check_path(normal, where, handler)
        _check_handler(where, handler)
        verbs = _parse_methods(methods, where, handler)
        level = self.default_auth_level if auth_level is None else _parse_auth_level(auth_level, where, handler)
        if max_body_bytes < 0:
            raise _fault(where, handler, f"max_body_bytes must not be negative, but is {max_body_bytes}")
        route = Route(
            path=normal,
            handler=handler,
            methods=verbs,
            auth_level=level,
            name=name if name is not None else _default_name(normal, verbs),
            description=description or _first_line_of_doc(handler),
            tags=tuple(tags),
            request_model=request_model,
            response_model=response_model,
            max_body_bytes=max_body_bytes,
        )
        for verb in verbs:
            taken = self._http.get((_shape(normal), verb))
            if taken is not None:
                raise _fault(where, handler, f"{verb} is already served by {taken.name!r} ({_location(taken.handler)})")
        self._add(route, where)
        self._http.update({(_shape(normal), verb): route for verb in verbs})
        return route

    def register_queue(
        self,
        queue: str,
        handler: BusHandler,
        *,
        connection: str,
        name: str | None = None,
        sessions: bool = False,
        max_concurrency: int = 16,
        description: str = "",
    ) -> QueueRoute:
        """Declare a consumer of a Service Bus queue; `handler` takes one `BusMessage`.

        `connection` names the setting that holds the connection string, or, with the suffix
        `__fullyQualifiedNamespace`, the namespace. `queue` may be `%SETTING%`. The name defaults to the queue's.
        """
        where = f"queue route {queue!r}"
        _check_bus(where, handler, connection, max_concurrency, queue)
        label = name if name is not None else _identifier(queue)
        text = description or _first_line_of_doc(handler)
        route = QueueRoute(label, handler, connection, queue, sessions, max_concurrency, text)
        self._add(route, where)
        return route

    def register_topic(
        self,
        topic: str,
        subscription: str,
        handler: BusHandler,
        *,
        connection: str,
        name: str | None = None,
        sessions: bool = False,
        max_concurrency: int = 16,
        description: str = "",
    ) -> TopicRoute:
        """Declare a consumer of a topic's subscription; otherwise as `register_queue`."""
        where = f"topic route '{topic}/{subscription}'"
        _check_bus(where, handler, connection, max_concurrency, topic, subscription)
        label = name if name is not None else _identifier(f"{topic}_{subscription}")
        text = description or _first_line_of_doc(handler)
        route = TopicRoute(label, handler, connection, topic, subscription, sessions, max_concurrency, text)
        self._add(route, where)
        return route

    def register_timer(
        self,
        name: str,
        schedule: str,
        handler: TimerHandler,
        *,
        run_on_startup: bool = False,
        description: str = "",
    ) -> TimerRoute:
        """Declare a timer; `handler` takes one `TimerTick`. `schedule` is NCRONTAB (six fields) or `%SETTING%`."""
        where = f"timer route {name!r}"
        _check_handler(where, handler)
        if not is_setting_reference(schedule) and len(schedule.split()) != 6:
            remedy = "NCRONTAB has six: second minute hour day month day-of-week"
            raise _fault(where, handler, f"schedule {schedule!r} has {len(schedule.split())} fields; {remedy}")
        route = TimerRoute(name, handler, schedule, run_on_startup, description or _first_line_of_doc(handler))
        self._add(route, where)
        return route

    def get_route(self, path: str, method: HttpMethod | str | None = None) -> Route | None:
        """The HTTP route declared for this path template (the first one, if `method` is None), or None."""
        shape = _shape(normalize_path(path))
        if method is not None:
            return self._http.get((shape, HttpMethod(method.upper())))
        return next((route for (known, _), route in self._http.items() if known == shape), None)

    def get(self, name: str) -> AnyRoute | None:
        """The route of any kind with this name, or None."""
        return self._routes.get(name.casefold())

    def unregister(self, name_or_path: str) -> bool:
        """Forget the route of any kind with this name, or every HTTP route with this path. False if there is none."""
        route = self._routes.get(name_or_path.casefold())
        shape = _shape(normalize_path(name_or_path))
        doomed = [route] if route is not None else [r for r in self.http_routes if _shape(r.path) == shape]
        for item in doomed:
            del self._routes[item.name.casefold()]
            if isinstance(item, Route):
                for verb in item.methods:
                    del self._http[_shape(item.path), verb]
        return bool(doomed)

    def __len__(self) -> int:
        return len(self._routes)

    def _add(self, route: AnyRoute, where: str) -> None:
        if not _NAME.fullmatch(route.name) or route.name.casefold() in _RESERVED_NAMES:
            rule = "a letter, then up to 127 letters, digits, '_' or '-'; not 'host' or 'warmup'"
            raise _fault(where, route.handler, f"{route.name!r} is not a function name ({rule}); pass name=")
        taken = self._routes.get(route.name.casefold())
        if taken is not None:
            at = _location(taken.handler)
            raise _fault(where, route.handler, f"the name {route.name!r} is taken by the route at {at}; pass name=")
        self._routes[route.name.casefold()] = route


def route(
    registry: RouteRegistry,
    path: str,
    *,
    methods: Iterable[HttpMethod | str] = (HttpMethod.GET,),
    auth_level: AuthLevel | str | None = None,
    name: str | None = None,
    description: str = "",
    tags: Iterable[str] = (),
    request_model: type[BaseModel] | None = None,
    response_model: type[BaseModel] | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
) -> Callable[[HandlerT], HandlerT]:
    """Decorator form of `RouteRegistry.register`; the handler stays a plain function."""

    def declare(handler: HandlerT) -> HandlerT:
        registry.register(
            path,
            handler,
            methods,
            auth_level,
            name,
            description,
            tags,
            request_model,
            response_model,
            max_body_bytes,
        )
        return handler

    return declare


def normalize_path(path: str) -> str:
    """`path` without slashes at its ends and without a leading "api" segment, which is the prefix itself."""
    inner = path.strip("/")
    if inner == "api":
        return ""
    return inner.removeprefix("api/").lstrip("/")


def is_setting_reference(text: str) -> bool:
    """Whether `text` is `%NAME%`: to be replaced by the setting of that name when the route is bound."""
    return len(text) > 2 and text.startswith("%") and text.endswith("%") and "%" not in text[1:-1]


def _shape(path: str) -> str:
    return _PARAMETER.sub("{}", path).casefold()


def _check_path(path: str, where: str, handler: object) -> None:
    if not path:
        raise _fault(where, handler, "the path is empty")
    seen: set[str] = set()
    for segment in path.split("/"):
        parameter = _PARAMETER.fullmatch(segment)
        if parameter is None:
            if not _LITERAL.fullmatch(segment) or segment in (".", ".."):
                raise _fault(where, handler, f"segment {segment!r} is neither a literal nor one {{parameter}}")
        elif parameter[1] in seen:
            raise _fault(where, handler, f"parameter {{{parameter[1]}}} appears twice")
        else:
            seen.add(parameter[1])
    if path.split("/")[0].casefold() in ("admin", "runtime"):
        raise _fault(where, handler, "the Functions host keeps paths under 'admin' and 'runtime' for itself")


def _parse_methods(methods: Iterable[HttpMethod | str], where: str, handler: object) -> tuple[HttpMethod, ...]:
    if isinstance(methods, str):
        raise _fault(where, handler, f"methods must be a list, as in methods=[{methods!r}]")
    try:
        verbs = tuple(dict.fromkeys(HttpMethod(method.upper()) for method in methods))
    except ValueError as error:
        raise _fault(where, handler, f"{error}; known methods: {', '.join(HttpMethod)}") from None
    if not verbs:
        raise _fault(where, handler, "methods is empty")
    return verbs


def _parse_auth_level(level: AuthLevel | str, where: str, handler: object) -> AuthLevel:
    try:
        return AuthLevel(level.upper())
    except ValueError as error:
        raise _fault(where, handler, f"{error}; known levels: {', '.join(AuthLevel)}") from None


def _check_bus(where: str, handler: object, connection: str, max_concurrency: int, *entities: str) -> None:
    _check_handler(where, handler)
    for entity in entities:
        if not _ENTITY.fullmatch(entity):
            raise _fault(where, handler, f"{entity!r} is not the name of a Service Bus entity, nor %SETTING%")
    if not _SETTING.fullmatch(connection):
        raise _fault(where, handler, "connection must be the NAME of a setting, not its value")
    if not 1 <= max_concurrency <= 1000:
        raise _fault(where, handler, f"max_concurrency must be from 1 to 1000, but is {max_concurrency}")


def _check_handler(where: str, handler: object) -> None:
    if not callable(handler):
        raise _fault(where, handler, f"the handler is not callable: {handler!r}")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise _fault(where, handler, "the handler is a generator; to stream, return Response(stream=...)")
    try:
        signature = inspect.signature(handler)
    except ValueError as error:
        raise _fault(where, handler, f"the handler's signature cannot be read: {error}") from None
    parameters = signature.parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    other = [p for p in parameters if p.kind is p.VAR_POSITIONAL or (p.kind is p.KEYWORD_ONLY and p.default is p.empty)]
    if len(positional) != 1 or other:
        raise _fault(where, handler, f"the handler must take exactly one argument, but its signature is {signature}")


def _default_name(path: str, verbs: tuple[HttpMethod, ...]) -> str:
    return _identifier("_".join(verb.lower() for verb in verbs) + "_" + path)


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "_", text).strip("_")


def _first_line_of_doc(handler: object) -> str:
    return (inspect.getdoc(_function(handler)) or "").partition("\n")[0]


def _function(handler: object) -> object:
    """The function behind decorators, functools.partial and instances with `__call__`."""
    inner = inspect.unwrap(handler) if callable(handler) else handler
    while isinstance(inner, functools.partial):
        inner = inner.func
    return inner if inspect.isroutine(inner) else inspect.getattr_static(type(inner), "__call__", inner)


def _location(handler: object) -> str:
    code = getattr(_function(handler), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(handler)


def _fault(where: str, handler: object, what: str) -> RouteError:
    return RouteError(f"{where}: {what} [{_location(handler)}]")
