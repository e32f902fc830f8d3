"""AsgiRuntime: the routes as a Starlette application, with consumers of queues and timers in its lifespan."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping

import uvicorn
from starlette.applications import Starlette

from runtime.asgi_http import HttpEndpoint
from runtime.auth import Keys, RequestAuthorizer, is_loopback
from runtime.bus_consumer import BusConsumers, ConsumerState
from runtime.config_loader import RuntimeConfig
from runtime.invocation import Invoker
from runtime.lifecycle import Initializer, Lifecycle, NotReady, Shutdown
from runtime.openapi import openapi_route
from runtime.outgoing import Outgoing
from runtime.routes_registry import RouteRegistry
from runtime.storage_queues import StorageConsumers
from runtime.timers import Timer
from runtime.tokens import Entra, TokenVerifier

log = logging.getLogger("runtime.asgi")

# Together with the drain of the bus consumers below the 30 s that container hosts allow.
GRACEFUL_SHUTDOWN_SECONDS = 8
LISTEN_BACKLOG = 1024
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ServeError(RuntimeError):
    """The server cannot start; the message names the setting to change."""


class AsgiRuntime:
    """Binds a registry to ASGI: any server that speaks it, or `serve`.

    `keys` and the tokens of `entra` guard FUNCTION and ADMIN routes; without both, only this machine is served. The
    header `X-MS-CLIENT-PRINCIPAL` means nothing here: no platform stands before this process. `settings` resolve the
    connection names and `%SETTING%` references of bus and timer routes. Routes registered after `app` was first read
    are not served. `port_setting` is the name to show when the port is taken.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        route_registry: RouteRegistry,
        app_initializer: Initializer | None = None,
        app_shutdown: Shutdown | None = None,
        *,
        keys: Keys,
        entra: Entra | None = None,
        settings: Mapping[str, str],
        prefix: str = "/api",
        port_setting: str = "PORT",
    ) -> None:
        self.config = config
        self.route_registry = route_registry
        self.lifecycle = Lifecycle(app_initializer, app_shutdown)
        self._keys = keys
        self._settings = settings
        self._prefix = prefix
        self._port_setting = port_setting
        self._entra = entra
        self.outgoing = Outgoing(config)
        tokens = TokenVerifier(entra) if entra is not None else None
        self._invoker = Invoker(self.lifecycle, RequestAuthorizer(keys, tokens=tokens))
        self._app: Starlette | None = None
        self._port: int | None = None
        self._timers: list[Timer] = []
        self._consumers: BusConsumers | None = None

    @property
    def app(self) -> Starlette:
        """The ASGI application; its lifespan starts and stops consumers, timers and the application itself.

        Raises `RouteError` with everything that is wrong with the routes, `RuntimeConfigError` if the schedule of a
        timer is unusable.
        """
        if self._app is None:
            self.route_registry.check(self._settings)
            self._timers = [
                Timer(route, self._settings, self._invoker.timer) for route in self.route_registry.timer_routes
            ]
            document = openapi_route(
                self.route_registry,
                title=self.config.app_name,
                version=self.config.app_version,
                prefix=self._prefix,
                tokens=self._entra is not None,
            )
            routes = (*self.route_registry.http_routes, *([document] if document is not None else []))
            endpoint = HttpEndpoint(routes, self._invoker, self._prefix)
            self._app = Starlette(lifespan=self._lifespan)
            # Not as a mount at "/": its pattern takes no path with a line break, which is a good one when encoded.
            self._app.router.default = endpoint
        return self._app

    @property
    def app_instance(self) -> object:
        """What the initializer returned, or None before."""
        return self.lifecycle.app_instance

    @property
    def port(self) -> int | None:
        """The port that `serve` listens on, from the moment that clients can connect."""
        return self._port

    def bus_states(self) -> list[ConsumerState]:
        """How each bus route's consumer fares, for health checks."""
        return self._consumers.states() if self._consumers is not None else []

    async def serve(self, host: str = "127.0.0.1", port: int = 7071) -> None:
        """Serve until SIGINT, SIGTERM or cancellation, then shut down in order. Port 0 takes a free one: see `port`.

        Raises `ServeError` if no key is configured and `host` is not a loopback address, or if the port is taken.
        """
        if not self._keys and self._entra is None:
            if not is_loopback(host):
                raise ServeError(f"No function or admin key is configured: refusing to serve on {host}; set one first.")
            log.warning("no keys are configured: every route is open to this machine")
        app = self.app
        with self._bind(host, port) as listener:
            server = _Server(
                uvicorn.Config(
                    app,
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    lifespan="on",
                    backlog=LISTEN_BACKLOG,
                    timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_SECONDS,
                )
            )
            self._port = listener.getsockname()[1]
            log.info("serving %s on http://%s:%d%s", self.config.app_name, host, self._port, self._prefix)
            serving = asyncio.create_task(server.serve(sockets=[listener]), name="runtime-server")
            try:
                with _stop_on_signals(server, self.lifecycle):
                    await asyncio.shield(serving)
            except asyncio.CancelledError:
                server.should_exit = True
                self.lifecycle.stop_starting()
                await serving
                raise
            finally:
                self._port = None
            if not server.started:
                raise ServeError("The application did not start; the log holds the cause.")

    def _bind(self, host: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Named as TCP: asyncio switches Nagle's algorithm off only for such sockets, and an answer of two pieces would
        # wait for the caller's delayed acknowledgement, 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), port))
            # From here on connections wait instead of being refused, while the application starts.
            listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise ServeError(
                    f"Port {port} on {host} is in use; set {self._port_setting} to another one."
                ) from error
            raise ServeError(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
        return listener

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        consumers = BusConsumers(self.route_registry.bus_routes, self._settings, self._invoker)
        self._consumers = consumers
        with contextlib.suppress(NotReady):  # logged; requests are answered 503 until a later attempt succeeds
            await self.lifecycle.ensure()
        consumers.start()
        storage = StorageConsumers(self.route_registry.storage_routes, self._settings, self._invoker)
        storage.start()
        ticking = [asyncio.create_task(timer.run(), name="runtime-timer") for timer in self._timers]
        try:
            yield
        finally:
            for task in ticking:
                task.cancel()
            if ticking:
                await asyncio.wait(ticking)
            await asyncio.gather(consumers.stop(), storage.stop())
            await self.lifecycle.shutdown()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which ends the process before the caller of `serve` can clean up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _stop_on_signals(server: uvicorn.Server, lifecycle: Lifecycle) -> Iterator[None]:
    """Stop the server in order on SIGINT or SIGTERM, at once on a second one."""

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True
        lifecycle.stop_starting()  # the server looks at its flags only once the application has started

    loop = asyncio.get_running_loop()
    # Only the main thread may handle signals.
    signals = STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ()
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
