"""RouteRegistry: what an application serves, declared once and bound by any adapter.

Paths are relative to the prefix of the host, `api` by default on Azure Functions: "hello", "/hello" and "api/hello"
are the same route, served at /api/hello. A segment in braces, "agents/{agent_id}", is a parameter. As on the
Functions host, paths are matched without regard to case.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar, Unpack

from runtime.route_checks import (
    PARAMETER,
    RouteError,
    declaration,
    describe,
    function_of,
    location,
    missing_settings,
    parse_methods,
    route_faults,
)
from runtime.routes import (
    DEFAULT_MAX_BODY_BYTES,
    AnyRoute,
    AuthLevel,
    BusHandler,
    BusRoute,
    HttpHandler,
    HttpMethod,
    Model,
    QueueRoute,
    Route,
    RouteOptions,
    StorageHandler,
    StorageQueueRoute,
    TimerHandler,
    TimerRoute,
    TopicRoute,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

HandlerT = TypeVar("HandlerT", bound=Callable[..., object])


class RouteRegistry:
    """The routes of an application.

    Registering never raises: what is wrong is kept, and `check`, which every binding calls before it builds anything,
    raises one `RouteError` with all mistakes. `default_auth_level` is the level of HTTP routes that name none.
    """

    def __init__(self, default_auth_level: AuthLevel | str = AuthLevel.FUNCTION) -> None:
        self.default_auth_level = AuthLevel(default_auth_level)
        self._routes: dict[str, AnyRoute] = {}  # by folded name, in order of registration
        self._http: dict[tuple[str, HttpMethod], Route] = {}
        self._faults: list[str] = []

    @property
    def http_routes(self) -> tuple[Route, ...]:
        """The HTTP routes, in order of registration."""
        return tuple(route for route in self._routes.values() if isinstance(route, Route))

    @property
    def bus_routes(self) -> tuple[BusRoute, ...]:
        """The queue and topic routes, in order of registration."""
        return tuple(route for route in self._routes.values() if isinstance(route, (QueueRoute, TopicRoute)))

    @property
    def storage_routes(self) -> tuple[StorageQueueRoute, ...]:
        """The routes of storage queues, in order of registration."""
        return tuple(route for route in self._routes.values() if isinstance(route, StorageQueueRoute))

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
        response_model: Model | None = None,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        **options: Unpack[RouteOptions],
    ) -> Route:
        """Declare an HTTP route; `handler` takes one `Request`.

        The name defaults to the methods and the path, as in `get_agents_agent_id`. Routes may share a path when their
        methods differ.
        """
        normal = normalize_path(path)
        faults: list[str] = []
        verbs: tuple[HttpMethod, ...] = ()
        try:
            verbs = parse_methods(methods)
        except (ValueError, TypeError) as error:
            faults.append(str(error))
        level = self.default_auth_level
        try:
            level = level if auth_level is None else AuthLevel(str(auth_level).upper())
        except ValueError as error:
            faults.append(f"{error}; known levels: {', '.join(AuthLevel)}")
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
            declared_at=declaration(),
            **options,
        )
        if not faults:  # else a fault of the name or the path may only follow from these
            faults += route_faults(route)
        for verb in verbs:
            taken = self._http.get((_shape(normal), verb))
            if taken is not None:
                faults.append(f"{verb} is already served by {taken.name!r} ({taken.declared_at})")
        if self._add(route, faults):
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
        required: bool = True,
    ) -> QueueRoute:
        """Declare a consumer of a Service Bus queue; `handler` takes one `BusMessage`.

        `connection` names the setting that holds the connection string, or, with the suffix
        `__fullyQualifiedNamespace`, the namespace. `queue` may be `%SETTING%`. The name defaults to the queue's.
        """
        label = name if name is not None else _identifier(queue)
        text = description or _first_line_of_doc(handler)
        route = QueueRoute(label, handler, connection, queue, sessions, max_concurrency, text, required, declaration())
        self._add(route, [*route_faults(route)])
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
        required: bool = True,
    ) -> TopicRoute:
        """Declare a consumer of a topic's subscription; otherwise as `register_queue`."""
        label = name if name is not None else _identifier(f"{topic}_{subscription}")
        text = description or _first_line_of_doc(handler)
        route = TopicRoute(
            label, handler, connection, topic, subscription, sessions, max_concurrency, text, required, declaration()
        )
        self._add(route, [*route_faults(route)])
        return route

    def register_storage_queue(
        self,
        queue: str,
        handler: StorageHandler,
        *,
        connection: str = "AzureWebJobsStorage",
        name: str | None = None,
        max_concurrency: int = 16,
        description: str = "",
        required: bool = True,
    ) -> StorageQueueRoute:
        """Declare a consumer of a queue of a storage account; `handler` takes one `StorageMessage`.

        `connection` names the setting that holds the connection string, or, with the suffix `__queueServiceUri` or
        `__accountName`, the account. `queue` may be `%SETTING%`. The name defaults to the queue's.
        """
        label = name if name is not None else _identifier(queue)
        text = description or _first_line_of_doc(handler)
        route = StorageQueueRoute(label, handler, connection, queue, max_concurrency, text, required, declaration())
        self._add(route, [*route_faults(route)])
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
        text = description or _first_line_of_doc(handler)
        route = TimerRoute(name, handler, schedule, run_on_startup, text, declaration())
        self._add(route, [*route_faults(route)])
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

    def check(self, settings: Mapping[str, str] | None = None, more: Iterable[tuple[AnyRoute, str]] = ()) -> None:
        """Raises one `RouteError` with everything that is wrong, or returns.

        Args:
            settings: Where the settings that routes refer to must be; None: they are not looked for.
            more: What a binding has found wrong itself.
        """
        faults = [*self._faults, *(describe(route, fault) for route, fault in more)]
        if settings is not None:
            for route in self._routes.values():
                faults += [describe(route, fault) for fault in missing_settings(route, settings)]
        if faults:
            raise RouteError(faults)

    def __len__(self) -> int:
        return len(self._routes)

    def _add(self, route: AnyRoute, faults: list[str]) -> bool:
        taken = self._routes.get(route.name.casefold())
        if taken is not None:
            at = taken.declared_at or location(taken.handler)
            faults.append(f"the name {route.name!r} is taken by the route at {at}; pass name=")
        self._faults += [describe(route, fault) for fault in faults]
        if not faults:
            self._routes[route.name.casefold()] = route
        return not faults


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
    response_model: Model | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    **options: Unpack[RouteOptions],
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
            **options,
        )
        return handler

    return declare


def normalize_path(path: str) -> str:
    """`path` without slashes at its ends and without a leading "api" segment, which is the prefix itself."""
    inner = path.strip("/")
    if inner == "api":
        return ""
    return inner.removeprefix("api/").lstrip("/")


def _shape(path: str) -> str:
    return PARAMETER.sub("{}", path).casefold()


def _default_name(path: str, verbs: tuple[HttpMethod, ...]) -> str:
    return _identifier("_".join(verb.lower() for verb in verbs) + "_" + path)


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "_", text).strip("_")


def _first_line_of_doc(handler: object) -> str:
    return (inspect.getdoc(function_of(handler)) or "").partition("\n")[0]
