from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

import azure.functions as func
import pytest

from runtime import AuthLevel, BusMessage, HttpMethod, Parameter, Request, RouteError, RouteRegistry, TimerTick, route
from runtime.route_checks import shadowed
from runtime.routes_registry import normalize_path


async def handler(request: Request) -> dict[str, object]:
    """Answers.

    In detail.
    """
    return {"path": request.path}


def on_message(message: BusMessage) -> None:
    del message


async def on_tick(tick: TimerTick) -> None:
    del tick


@pytest.fixture
def registry() -> RouteRegistry:
    return RouteRegistry()


def test_a_registered_route_carries_its_defaults(registry: RouteRegistry) -> None:
    declared = registry.register("test", handler)
    assert declared.path == "test"
    assert declared.methods == (HttpMethod.GET,)
    assert declared.auth_level is AuthLevel.FUNCTION
    assert declared.name == "get_test"
    assert declared.description == "Answers."
    assert declared.max_body_bytes == 1_048_576
    assert registry.get_route("test") is declared


@pytest.mark.parametrize("path", ["hello", "/hello", "api/hello", "/api/hello/"])
def test_slash_and_api_prefix_are_the_prefix_itself(registry: RouteRegistry, path: str) -> None:
    assert registry.register(path, handler).path == "hello"
    assert registry.get_route("api/hello", "get") is not None


def test_only_a_whole_api_segment_is_the_prefix(registry: RouteRegistry) -> None:
    assert registry.register("apidocs", handler).path == "apidocs"


def test_routes_share_a_path_when_their_methods_differ(registry: RouteRegistry) -> None:
    read = registry.register("agents/{agent_id}", handler)
    write = registry.register("agents/{agent_id}", handler, methods=["post", HttpMethod.PUT])
    assert registry.get_route("agents/{agent_id}", "PUT") is write
    assert registry.get_route("agents/{agent_id}") is read
    assert (read.name, write.name) == ("get_agents_agent_id", "post_put_agents_agent_id")
    assert registry.http_routes == (read, write)


def test_decorator_registers_and_returns_the_plain_function(registry: RouteRegistry) -> None:
    @route(registry, "api/goodbye", methods=[HttpMethod.GET], auth_level="anonymous", tags=["talk"])
    async def goodbye(request: Request) -> str:
        return request.method

    declared = registry.get_route("goodbye")
    assert declared is not None
    assert declared.handler is goodbye
    assert declared.auth_level is AuthLevel.ANONYMOUS
    assert declared.tags == ("talk",)


def test_default_auth_level_applies_to_routes_that_name_none() -> None:
    registry = RouteRegistry(default_auth_level="ANONYMOUS")
    assert registry.register("a", handler).auth_level is AuthLevel.ANONYMOUS
    assert registry.register("b", handler, auth_level=AuthLevel.ADMIN).auth_level is AuthLevel.ADMIN


def test_unregister_frees_name_and_path(registry: RouteRegistry) -> None:
    registry.register("a", handler, name="first")
    registry.register_queue("jobs", on_message, connection="BUS")
    assert registry.unregister("FIRST")
    assert registry.unregister("jobs")
    assert not registry.unregister("jobs")
    assert len(registry) == 0
    registry.register("a", handler, name="first")
    assert registry.unregister("api/a")
    assert registry.get_route("a") is None


def test_bus_and_timer_routes(registry: RouteRegistry) -> None:
    queue = registry.register_queue("agent-commands", on_message, connection="BUS", max_concurrency=4)
    topic = registry.register_topic("agent-events", "realm-agents", on_message, connection="BUS", sessions=True)
    by_setting = registry.register_queue("%QUEUE%", on_message, connection="BUS")
    timer = registry.register_timer("sweep", "*/30 * * * * *", on_tick)
    assert (queue.name, topic.name, by_setting.name) == ("agent-commands", "agent-events_realm-agents", "QUEUE")
    assert registry.bus_routes == (queue, topic, by_setting)
    assert registry.timer_routes == (timer,)
    assert registry.get("SWEEP") is timer


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "empty"),
        ("api", "empty"),
        ("admin/keys", "keeps paths under 'admin'"),
        ("Admin", "keeps paths under 'admin'"),
        ("runtime/x", "keeps paths under"),
        ("a//b", "neither a literal"),
        ("a/../b", "neither a literal"),
        ("a/{x:int}", "neither a literal"),
        ("a/pre{x}", "neither a literal"),
        ("a/{x}/{x}", "appears twice"),
        ("a b", "neither a literal"),
        ("a%2fb", "neither a literal"),
    ],
)
def test_bad_paths(registry: RouteRegistry, path: str, fault: str) -> None:
    registry.register(path, handler)
    with pytest.raises(RouteError, match=fault) as caught:
        registry.check()
    assert f"HTTP route {normalize_path(path)!r}" in str(caught.value)
    assert f"{__file__}:" in str(caught.value)


def no_argument() -> str:
    return ""


def two_arguments(request: Request, extra: int = 1) -> str:
    return request.method * extra


def any_arguments(*args: object) -> str:
    return str(args)


def required_keyword(request: Request, *, extra: int) -> str:
    return request.method * extra


def generator(request: Request) -> object:
    yield request


async def async_generator(request: Request) -> AsyncIterator[Request]:
    yield request


@pytest.mark.parametrize(
    "wrong", [no_argument, two_arguments, any_arguments, required_keyword, generator, async_generator, "text", None]
)
def test_handlers_must_take_one_argument(registry: RouteRegistry, wrong: object) -> None:
    registry.register("a", wrong)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(RouteError, match="HTTP route 'a'"):
        registry.check()
    assert len(registry) == 0


class CallableHandler:
    def __call__(self, request: Request) -> str:
        return request.method

    def method(self, request: Request) -> str:
        return request.method


def prefixed(prefix: str, request: Request) -> str:
    return prefix + request.method


def test_methods_instances_and_partials_are_handlers(registry: RouteRegistry) -> None:
    registry.register("a", CallableHandler())
    registry.register("b", CallableHandler().method)
    registry.register("c", functools.partial(prefixed, "x"))
    registry.register("d", lambda request: request.method)
    assert len(registry.http_routes) == 4


def test_duplicates_name_both_places(registry: RouteRegistry) -> None:
    registry.register("agents/{agent_id}", handler, methods=["GET", "POST"])
    registry.register("Agents/{other}", handler, name="other")
    with pytest.raises(RouteError, match="GET is already served by 'get_post_agents_agent_id'"):
        registry.check()
    registry.register_queue("q", on_message, connection="BUS", name="GET_POST_AGENTS_AGENT_ID")
    with pytest.raises(RouteError, match="the name 'GET_POST_AGENTS_AGENT_ID' is taken"):
        registry.check()


@pytest.mark.parametrize("name", ["host", "warmup", "1st", "a b", "", "x" * 129])
def test_bad_names(registry: RouteRegistry, name: str) -> None:
    registry.register("a", handler, name=name)
    with pytest.raises(RouteError, match="is not a function name"):
        registry.check()


def test_bad_methods_levels_and_limits(registry: RouteRegistry) -> None:
    registry.register("a", handler, methods=["BREW"])
    with pytest.raises(RouteError, match="known methods: GET"):
        registry.check()
    registry.register("a", handler, methods="GET")
    with pytest.raises(RouteError, match="must be a list"):
        registry.check()
    registry.register("a", handler, methods=[])
    with pytest.raises(RouteError, match="methods is empty"):
        registry.check()
    registry.register("a", handler, auth_level="root")
    with pytest.raises(RouteError, match="known levels: ANONYMOUS"):
        registry.check()
    registry.register("a", handler, max_body_bytes=-1)
    with pytest.raises(RouteError, match="max_body_bytes"):
        registry.check()
    registry.register("a", handler, response_model="package.module.Name")
    with pytest.raises(RouteError, match="names no model; write package"):
        registry.check()


def test_levels_and_methods_of_azure_functions_are_understood(registry: RouteRegistry) -> None:
    level: Any = func.AuthLevel.ANONYMOUS
    methods: Any = [func.HttpMethod.POST]
    declared = registry.register("a", handler, methods, level)
    assert (declared.methods, declared.auth_level) == ((HttpMethod.POST,), AuthLevel.ANONYMOUS)
    registry.check()
    registry.register("b", handler, methods=methods[0])
    with pytest.raises(RouteError, match="not iterable"):
        registry.check()


def test_bad_bus_and_timer_routes(registry: RouteRegistry) -> None:
    registry.register_queue("q", on_message, connection="Endpoint=sb://x/;SharedAccessKey=y")
    with pytest.raises(RouteError, match="NAME of a setting"):
        registry.check()
    registry.register_topic("t", "a b", on_message, connection="BUS")
    with pytest.raises(RouteError, match="not the name of a Service Bus entity"):
        registry.check()
    registry.register_queue("q", on_message, connection="BUS", max_concurrency=0)
    with pytest.raises(RouteError, match="max_concurrency"):
        registry.check()
    registry.register_timer("t", "* * * * *", on_tick)
    with pytest.raises(RouteError, match="has 5 fields"):
        registry.check()
    assert len(registry) == 0


def test_every_mistake_is_told_at_once_with_route_file_and_line(registry: RouteRegistry) -> None:
    registry.register("admin/keys", two_arguments)
    registry.register("fine", handler, name="fine")
    registry.register("fine", handler, name="Fine")
    registry.register_queue("q", handler, connection="BUS")  # type: ignore[arg-type]  # takes a message all the same
    registry.register_timer("t", "%SCHEDULE%", on_tick)
    with pytest.raises(RouteError) as caught:
        registry.check({})
    told = caught.value.faults
    assert len(told) == 6
    assert told[0].startswith("HTTP route 'admin/keys': the handler must take exactly one argument")
    assert "keeps paths under 'admin'" in told[1]
    assert "GET is already served by 'fine'" in told[2]
    assert "the name 'Fine' is taken" in told[3]
    assert "queue route 'q': neither BUS nor BUS__fullyQualifiedNamespace is set" in told[4]
    assert "timer route 't': the setting SCHEDULE is not set" in told[5]
    line = test_every_mistake_is_told_at_once_with_route_file_and_line.__code__.co_firstlineno
    assert f"[{__file__}:{line + 1}; handler {__file__}:{two_arguments.__code__.co_firstlineno}]" in told[0]
    assert str(caught.value).startswith("6 mistakes in the routes:\n  - HTTP route 'admin/keys'")
    assert len(registry) == 3


def test_settings_of_routes_that_are_not_required_may_be_missing(registry: RouteRegistry) -> None:
    registry.register_queue("q", on_message, connection="BUS", required=False)
    registry.register_topic("t", "s", on_message, connection="OTHER")
    registry.check({"OTHER__fullyQualifiedNamespace": "example.servicebus.windows.net"})
    with pytest.raises(RouteError, match="OTHER"):
        registry.check({"OTHER": "  "})


def test_parameters_and_scopes_must_fit_the_path(registry: RouteRegistry) -> None:
    registry.register(
        "a/{x}",
        handler,
        parameters=(Parameter("y", "path"), Parameter("f", kind=object())),
        scopes=("things/{z}:read",),
    )
    with pytest.raises(RouteError) as caught:
        registry.check()
    assert [fault.partition(": ")[2].partition(" [")[0][:40] for fault in caught.value.faults] == [
        "the path has no parameter {y}",
        "parameter 'f' has a type that cannot be ",
        "scope 'things/{z}:read' refers to {z}, w",
    ]


def hidden(*routes: tuple[str, str]) -> list[str]:
    registry = RouteRegistry()
    for path, name in routes:
        registry.register(path, handler, name=name)
    registry.check()
    return [route.name for route, _ in shadowed(registry.http_routes)]


def test_routes_that_the_host_would_never_call_are_found() -> None:
    assert hidden(("items/{id}", "a"), ("items/recent", "b")) == ["b"]
    assert hidden(("items/{id}", "b"), ("items/recent", "a")) == []
    assert hidden(("items/{id}", "a"), ("items/{id}/recent", "b"), ("other", "c")) == []
    assert hidden(("{x}/b", "a"), ("a/{y}", "b")) == ["b"]
    assert hidden(("a/{y}", "a"), ("{x}/b", "b")) == []
