"""AzureFunctionsRuntime: the routes as an Azure Functions app (Python v2 programming model).

The host checks function keys, settles messages (returning completes, raising abandons) and runs the schedules. It has
no start hook, so the application is built by the first invocation that needs it, or by the `warmup` function; and no
stop hook, so state must be safe when the process is killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import azure.functions as func
from azure.functions.warmup import WarmUpContext

from runtime.auth import Keys, RequestAuthorizer
from runtime.config_loader import RuntimeConfig, RuntimeConfigError
from runtime.easy_auth import proven
from runtime.encoding import Answer
from runtime.invocation import Inbound, Invoker, request_id
from runtime.lifecycle import Initializer, Lifecycle, Shutdown
from runtime.messages import BusMessage, Headers, StorageMessage, TimerTick
from runtime.openapi import openapi_route
from runtime.other_methods import OtherMethods, other_methods
from runtime.outgoing import Outgoing
from runtime.problems import internal, method_not_allowed, too_large
from runtime.route_checks import RouteError, shadowed
from runtime.routes import (
    AnyRoute,
    AuthLevel,
    BusRoute,
    HttpMethod,
    Route,
    StorageQueueRoute,
    TimerRoute,
    TopicRoute,
    is_setting_reference,
)
from runtime.routes_registry import RouteRegistry
from runtime.tokens import Entra, TokenVerifier

log = logging.getLogger("runtime.functions")

# The host redelivers an abandoned message at once: waiting here keeps a slow start from using up its deliveries.
BUS_PATIENCE_SECONDS = 30.0
MAX_BUFFERED_STREAM_BYTES = 32 * 1_048_576

_AUTH_LEVELS = {
    AuthLevel.ANONYMOUS: func.AuthLevel.ANONYMOUS,
    AuthLevel.FUNCTION: func.AuthLevel.FUNCTION,
    # The host's own ADMIN level asks for its master key, which opens every door; ours is checked by the authorizer.
    AuthLevel.ADMIN: func.AuthLevel.FUNCTION,
}


class AzureFunctionsRuntime:
    """Binds a registry to one `FunctionApp`.

    Function keys are the host's; `keys.admin` guards ADMIN routes. With `entra` the host lets everybody through to this
    process, which accepts tokens, what the platform's authentication says of the caller, and `keys` alone: the host's
    own keys, which it cannot know, then open nothing. `settings` (default: the environment) resolve `%SETTING%` names
    for the `entity` of bus messages, and must hold what routes refer to; in bindings the host resolves them.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        route_registry: RouteRegistry | None = None,
        app_initializer: Initializer | None = None,
        app_shutdown: Shutdown | None = None,
        *,
        keys: Keys | None = None,
        entra: Entra | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.route_registry = route_registry if route_registry is not None else RouteRegistry(config.auth_level)
        self.lifecycle = Lifecycle(app_initializer, app_shutdown)
        self.outgoing = Outgoing(config)
        self._settings = os.environ if settings is None else settings
        self._entra = entra
        authorizer = RequestAuthorizer(
            keys or Keys(),
            host_checks_function_keys=entra is None,
            tokens=TokenVerifier(entra) if entra is not None else None,
            platform_principals=proven(self._settings),
        )
        self._invoker = Invoker(self.lifecycle, authorizer)
        self._app = func.FunctionApp(http_auth_level=self._host_level(config.auth_level))
        self._bound: set[str] = set()
        self._refusing: dict[str, OtherMethods] = {}
        self._warms_up = False

    @property
    def app_instance(self) -> Any:  # only the application knows its type
        """What the initializer returned, or None before."""
        return self.lifecycle.app_instance

    def register_routes_to_azure_functions(self) -> None:
        """Say that the routes are to be served. Nothing is built before `get_func_app` has checked all of them, those
        that are registered later too; calling this is not needed."""

    def create_startup_function(self) -> None:
        """Add the `warmup` function, which the host runs on an instance before it takes traffic (scale-out only)."""
        self._warms_up = True

    def get_func_app(self) -> func.FunctionApp:
        """The function app with every route bound; always the same object. The host indexes it once per process.

        Raises:
            RouteError: With everything that is wrong with the routes; nothing is bound then.
            RuntimeConfigError: The configuration switches Azure Functions off.
        """
        if not self.config.azure_functions_enabled:
            raise RuntimeConfigError({"azure_functions_enabled": "is false, but a function app is asked for"})
        self.route_registry.check(self._settings, shadowed(self.route_registry.http_routes))
        _check_sole_app(self._app)
        registry = self.route_registry
        document = openapi_route(
            registry,
            title=self.config.app_name,
            version=self.config.app_version,
            prefix="/api",
            tokens=self._entra is not None,
        )
        http_routes = (*registry.http_routes, *([document] if document is not None else []))
        self._settle_other_methods(http_routes)
        for route in (*http_routes, *registry.bus_routes, *registry.storage_routes, *registry.timer_routes):
            if route.name not in self._bound:
                self._bound.add(route.name)
                self._bind(route)
        if self._warms_up and "warmup" not in self._bound:
            self._bound.add("warmup")
            self._app.function_name("warmup")(self._app.warm_up_trigger(arg_name="warmup")(self._warmup_handler()))
        return self._app

    def _settle_other_methods(self, routes: Sequence[Route]) -> None:
        """Decides which functions answer 405; what is bound cannot be taken back."""
        wanted = other_methods(routes)
        for name, before in self._refusing.items():
            late = before.refused - wanted[name].refused if name in wanted else before.refused
            if late:
                methods = ", ".join(sorted(late))
                fault = f"{methods} of its path came after get_func_app: register all routes before it is called"
                raise RouteError([f"route {name!r}: {fault}"])
        self._refusing |= {name: others for name, others in wanted.items() if name not in self._bound}

    def _bind(self, route: AnyRoute) -> None:
        if isinstance(route, Route):
            self._bind_http(route)
        elif isinstance(route, TimerRoute):
            self._bind_timer(route)
        elif isinstance(route, StorageQueueRoute):
            self._bind_storage(route)
        else:
            self._bind_bus(route)

    def _host_level(self, level: AuthLevel) -> func.AuthLevel:
        return _AUTH_LEVELS[level] if self._entra is None else func.AuthLevel.ANONYMOUS

    def _warmup_handler(self) -> Callable[[WarmUpContext], Awaitable[None]]:
        async def warmup(warmup: WarmUpContext) -> None:
            await self.lifecycle.ensure()

        return warmup

    async def shutdown(self) -> None:
        """Close the application. The host has no hook for it: for programs that embed the runtime."""
        await self.lifecycle.shutdown()

    def _bind_http(self, route: Route) -> None:
        others = self._refusing.get(route.name)
        refused = others.refused if others is not None else frozenset()

        async def handle(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
            headers = Headers(req.headers.items())
            if others is not None and req.method in refused:
                problem = method_not_allowed(req.method, others.allowed)
                answer = self._invoker.refuse(problem, request_id(headers, fallback=context.invocation_id), headers)
                body = b"" if req.method == HttpMethod.HEAD else answer.body
                return func.HttpResponse(body, status_code=answer.status, headers=answer.headers)
            inbound = Inbound(
                method=req.method,
                url=req.url,
                path=urlsplit(req.url).path,
                headers=headers,
                query=req.params,
                read_body=_body_reader(req),
                route_params=req.route_params,
                request_id=request_id(headers, fallback=context.invocation_id),
            )
            answer = await self._invoker.http(route, inbound)
            if answer.stream is not None:
                answer = await self._buffered(answer, answer.stream, inbound)
            body = b"" if inbound.method == HttpMethod.HEAD else answer.body
            return func.HttpResponse(body, status_code=answer.status, headers=answer.headers)

        methods = [str(method) for method in route.methods]
        if HttpMethod.GET in route.methods and self.route_registry.get_route(route.path, HttpMethod.HEAD) is None:
            methods.append(HttpMethod.HEAD)  # as on every other host
        methods += sorted(refused)
        trigger = self._app.route(route=route.path, methods=methods, auth_level=self._host_level(route.auth_level))
        self._app.function_name(route.name)(trigger(handle))

    async def _buffered(self, answer: Answer, stream: AsyncIterator[bytes], inbound: Inbound) -> Answer:
        """The answer with its stream read to the end: one body is all that the host takes."""
        chunks: list[bytes] = []
        size = 0
        try:
            async with contextlib.AsyncExitStack() as stack:
                close = getattr(stream, "aclose", None)
                if close is not None:
                    stack.push_async_callback(close)
                async for chunk in stream:
                    size += len(chunk)
                    if size > MAX_BUFFERED_STREAM_BYTES:
                        raise OverflowError(f"a streamed answer exceeds {MAX_BUFFERED_STREAM_BYTES} bytes")
                    chunks.append(chunk)
        except Exception:
            log.exception("a streamed answer broke off [request %s]", inbound.request_id)
            return self._invoker.refuse(internal(), inbound.request_id, inbound.headers)
        return Answer(answer.status, answer.headers, b"".join(chunks))

    def _bind_bus(self, route: BusRoute) -> None:
        entity = self._entity(route)

        async def handle(msg: func.ServiceBusMessage) -> None:
            await self._invoker.bus(route, from_functions(msg, entity), patience_seconds=BUS_PATIENCE_SECONDS)

        if isinstance(route, TopicRoute):
            trigger = self._app.service_bus_topic_trigger(
                arg_name="msg",
                connection=route.connection,
                topic_name=route.topic,
                subscription_name=route.subscription,
                is_sessions_enabled=route.sessions,
            )
        else:
            trigger = self._app.service_bus_queue_trigger(
                arg_name="msg",
                connection=route.connection,
                queue_name=route.queue,
                is_sessions_enabled=route.sessions,
            )
        self._app.function_name(route.name)(trigger(handle))

    def _bind_storage(self, route: StorageQueueRoute) -> None:
        queue = self._named(route.queue)

        async def handle(msg: func.QueueMessage) -> None:
            # The host has taken the base64 away.
            message = StorageMessage(
                msg.get_body(), queue, msg.id or "", msg.dequeue_count or 1, inserted_at=msg.insertion_time
            )
            await self._invoker.storage(route, message, patience_seconds=BUS_PATIENCE_SECONDS)

        trigger = self._app.queue_trigger(arg_name="msg", queue_name=route.queue, connection=route.connection)
        self._app.function_name(route.name)(trigger(handle))

    def _bind_timer(self, route: TimerRoute) -> None:
        async def handle(timer: func.TimerRequest) -> None:
            tick = TimerTick(route.name, _scheduled_for(timer), past_due=timer.past_due)
            await self._invoker.timer(route, tick)

        trigger = self._app.timer_trigger(
            arg_name="timer", schedule=route.schedule, run_on_startup=route.run_on_startup
        )
        self._app.function_name(route.name)(trigger(handle))

    def _entity(self, route: BusRoute) -> str:
        names = (route.topic, route.subscription) if isinstance(route, TopicRoute) else (route.queue,)
        return "/".join(map(self._named, names))

    def _named(self, name: str) -> str:
        return self._settings.get(name.strip("%"), name) if is_setting_reference(name) else name


def create_runtime(
    config: RuntimeConfig,
    route_registry: RouteRegistry | None = None,
    app_initializer: Initializer | None = None,
    app_shutdown: Shutdown | None = None,
    *,
    keys: Keys | None = None,
    entra: Entra | None = None,
    settings: Mapping[str, str] | None = None,
) -> AzureFunctionsRuntime:
    """An `AzureFunctionsRuntime`; without a registry it makes one whose default level is `config.auth_level`."""
    return AzureFunctionsRuntime(
        config, route_registry, app_initializer, app_shutdown, keys=keys, entra=entra, settings=settings
    )


def from_functions(msg: func.ServiceBusMessage, entity: str) -> BusMessage:
    """The trigger's message as ours."""
    return BusMessage(
        body=msg.get_body(),
        entity=entity,
        message_id=msg.message_id,
        correlation_id=msg.correlation_id,
        reply_to=msg.reply_to,
        reply_to_session_id=msg.reply_to_session_id,
        session_id=msg.session_id,
        subject=msg.subject or msg.label,
        content_type=msg.content_type,
        application_properties=dict(msg.application_properties or msg.user_properties or {}),
        delivery_count=msg.delivery_count or 1,
        enqueued_time=msg.enqueued_time_utc,
        sequence_number=msg.sequence_number,
    )


def _body_reader(req: func.HttpRequest) -> Callable[[int], Awaitable[bytes]]:
    async def read(limit: int) -> bytes:
        body: bytes = req.get_body()
        if len(body) > limit:
            raise too_large(limit)
        return body

    return read


def _scheduled_for(timer: func.TimerRequest) -> datetime:
    """The due time of this tick: what the host's schedule monitor expected next, or now where it keeps no record."""
    now = datetime.now(UTC)
    status = getattr(timer, "schedule_status", None) or {}  # not in the abstract class that annotations must name
    try:
        due = datetime.fromisoformat(str(status.get("Next")))
    except ValueError:
        return now
    due = due if due.tzinfo is not None else due.replace(tzinfo=UTC)
    return due if due.year > 1 else now  # .NET's DateTime.MinValue: never


def _check_sole_app(app: func.FunctionApp) -> None:
    """The host takes a module with one function app alone: says which other one is there, while it can be named."""
    frame = sys._getframe(2)
    if frame.f_code.co_name == "<module>":
        others = [n for n, value in frame.f_globals.items() if isinstance(value, func.FunctionApp) and value is not app]
        if others:
            remedy = "the host takes one app: register all routes with one runtime"
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            raise RouteError([f"function app: there is another one already, {', '.join(others)}; {remedy} [{where}]"])
