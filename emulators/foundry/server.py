"""The server: one Starlette app over one state and one model, served by uvicorn on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Generator, Sequence
from types import TracebackType

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from emulators.foundry.agents_api import AgentsApi
from emulators.foundry.assistants_api import AssistantsApi
from emulators.foundry.azure_functions import FunctionCaller
from emulators.foundry.conversations_api import ConversationsApi, Locks
from emulators.foundry.deployments import DEFAULT_DEPLOYMENTS, Deployment, parse_deployments
from emulators.foundry.edge import Edge, http_exception
from emulators.foundry.model import Model
from emulators.foundry.model_choice import build_model
from emulators.foundry.model_faults import FaultyModel
from emulators.foundry.responses_api import DEFAULT_CONTEXT_WINDOW, OnDisconnect, ResponsesApi
from emulators.foundry.run_engine import DEFAULT_RUN_EXPIRY, RunEngine
from emulators.foundry.runs_api import RunsApi
from emulators.foundry.state import State
from emulators.foundry.thread_state import ThreadState
from emulators.foundry.threads_api import ThreadsApi

PROJECT_PATH = "/api/projects/local"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # signals belong to whoever runs the loop


class FoundryEmulator:
    """The emulated project, as an async context manager.

    ``port`` 0 takes a free one. ``model``: ``"offline"``, the base URL of an OpenAI-compatible server, or a `Model`.
    ``db``: a SQLite file, or None for memory. ``deployments``: names or entries; None keeps those in the file, or
    takes `DEFAULT_DEPLOYMENTS`. ``latency_ms`` passes before a model begins to answer. ``on_disconnect``: whether a
    response or a streamed run is finished or dropped when its client leaves. ``context_window``: input tokens a model
    accepts. ``run_expiry``: seconds after which a run expires, by ``clock`` (Unix seconds). ``threads`` False refuses
    to create or change assistants and to create threads and runs, as an administrator can.

    Raises:
        OSError: the port is in use.
        StateUnavailable: ``db`` cannot be used, or another process holds it.
        ValueError: ``model`` or ``deployments`` is not of the form above, or ``run_expiry`` is not positive.
    """

    def __init__(
        self,
        port: int = 0,
        model: str | Model = "offline",
        db: str | None = None,
        deployments: Sequence[str | Deployment] | None = None,
        *,
        host: str = "127.0.0.1",
        latency_ms: float = 0.0,
        on_disconnect: OnDisconnect = "finish",
        context_window: int = DEFAULT_CONTEXT_WINDOW,
        run_expiry: float = DEFAULT_RUN_EXPIRY,
        clock: Callable[[], float] = time.time,
        threads: bool = True,
    ) -> None:
        self._host = host
        self._port = port
        self._model_spec = model
        self._db = db
        self._deployments = None if deployments is None else parse_deployments(list(deployments))
        self._latency = latency_ms / 1000
        self._on_disconnect: OnDisconnect = on_disconnect
        self._context_window = context_window
        if not run_expiry > 0:
            raise ValueError(f"run expiry: {run_expiry} is no positive number of seconds")
        self._run_expiry = run_expiry
        self._clock = clock
        self._threads = threads
        self._stack = contextlib.AsyncExitStack()

    @property
    def port(self) -> int:
        """The port served; known once started."""
        return self._port

    @property
    def url(self) -> str:
        """The server's root, below which ``/_emulator`` lies."""
        return f"http://{self._host}:{self._port}"

    @property
    def endpoint(self) -> str:
        """The project endpoint that the SDKs take."""
        return self.url + PROJECT_PATH

    async def __aenter__(self) -> FoundryEmulator:
        async with contextlib.AsyncExitStack() as stack:
            listener = stack.enter_context(_listen(self._host, self._port))
            state = State(self._db)
            stack.callback(state.close)
            if self._deployments is not None or not state.deployments():
                chosen = self._deployments
                if chosen is None:
                    chosen = parse_deployments(list(DEFAULT_DEPLOYMENTS))
                state.replace_deployments(deployment.wire() for deployment in chosen)
            model = FaultyModel(
                build_model(self._model_spec) if isinstance(self._model_spec, str) else self._model_spec
            )
            stack.push_async_callback(model.close)
            locks, functions = Locks(), FunctionCaller()
            stack.push_async_callback(functions.close)
            responses = ResponsesApi(
                state,
                model,
                locks,
                functions,
                latency=self._latency,
                on_disconnect=self._on_disconnect,
                context_window=self._context_window,
            )
            store = ThreadState(state.database)
            runs = RunEngine(
                store,
                model,
                latency=self._latency,
                context_window=self._context_window,
                clock=self._clock,
                functions=functions,
                life=self._run_expiry,
            )
            edge = Edge(PROJECT_PATH)
            app = Starlette(
                routes=[
                    *AgentsApi(state).routes(edge),
                    *ConversationsApi(state, locks).routes(edge),
                    *responses.routes(edge),
                    *self._thread_routes(edge, state, store, runs),
                    *edge.admin_routes(),
                    *model.admin_routes(),
                ],
                exception_handlers={HTTPException: http_exception},
            )
            await self._serve(app, listener, stack)
            stack.push_async_callback(responses.close)  # first to go: a running response would hold the server open
            stack.push_async_callback(runs.close)
            self._port = listener.getsockname()[1]
            self._stack = stack.pop_all()
        return self

    def _thread_routes(self, edge: Edge, state: State, store: ThreadState, runs: RunEngine) -> list[Route]:
        enabled, clock = self._threads, self._clock
        runs_api = RunsApi(
            state,
            store,
            runs,
            clock,
            expiry=self._run_expiry,
            on_disconnect=self._on_disconnect,
            enabled=enabled,
        )
        return [
            *AssistantsApi(state, store, clock, enabled=enabled).routes(edge),
            *runs_api.routes(edge),
            *ThreadsApi(store, runs, clock, enabled=enabled).routes(edge),
        ]

    async def _serve(self, app: Starlette, listener: socket.socket, stack: contextlib.AsyncExitStack) -> None:
        server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="foundry emulator")

        async def stop() -> None:
            server.should_exit = True
            await serving

        stack.push_async_callback(stop)
        await server.ready.wait()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()


def _listen(host: str, port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only for sockets that name TCP; with it on, answers wait 40 ms for an ACK
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener
