"""A generic runtime: declare routes once, bind them to Azure Functions or to any ASGI host.

Names are resolved on first use (PEP 562), so that importing the package costs next to nothing and pulls in neither
an Azure SDK nor a web framework: a function app pays for its cold start by the millisecond.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.agent_framework_runtime import AgentConfig, AgentExists, AgentFrameworkRuntime
    from runtime.asgi_runtime import AsgiRuntime, ServeError
    from runtime.auth import Keys
    from runtime.azure_functions_runtime import AzureFunctionsRuntime, create_runtime
    from runtime.bus_consumer import ConsumerState
    from runtime.config_loader import RuntimeConfig, RuntimeConfigError, load_runtime_config
    from runtime.lifecycle import Lifecycle, NotReady
    from runtime.messages import BusMessage, Caller, CallerKind, Headers, Request, Response, TimerTick
    from runtime.problems import FieldError, InvalidJson, Problem
    from runtime.routes_registry import (
        AuthLevel,
        HttpMethod,
        QueueRoute,
        Route,
        RouteError,
        RouteRegistry,
        TimerRoute,
        TopicRoute,
        route,
    )

_HOMES = {
    "AgentConfig": "agent_framework_runtime",
    "AgentExists": "agent_framework_runtime",
    "AgentFrameworkRuntime": "agent_framework_runtime",
    "AsgiRuntime": "asgi_runtime",
    "AuthLevel": "routes_registry",
    "AzureFunctionsRuntime": "azure_functions_runtime",
    "BusMessage": "messages",
    "Caller": "messages",
    "CallerKind": "messages",
    "ConsumerState": "bus_consumer",
    "FieldError": "problems",
    "Headers": "messages",
    "HttpMethod": "routes_registry",
    "InvalidJson": "problems",
    "Keys": "auth",
    "Lifecycle": "lifecycle",
    "NotReady": "lifecycle",
    "Problem": "problems",
    "QueueRoute": "routes_registry",
    "Request": "messages",
    "Response": "messages",
    "Route": "routes_registry",
    "RouteError": "routes_registry",
    "RouteRegistry": "routes_registry",
    "RuntimeConfig": "config_loader",
    "RuntimeConfigError": "config_loader",
    "ServeError": "asgi_runtime",
    "TimerRoute": "routes_registry",
    "TimerTick": "messages",
    "TopicRoute": "routes_registry",
    "create_runtime": "azure_functions_runtime",
    "load_runtime_config": "config_loader",
    "route": "routes_registry",
}

__all__ = [
    "AgentConfig",
    "AgentExists",
    "AgentFrameworkRuntime",
    "AsgiRuntime",
    "AuthLevel",
    "AzureFunctionsRuntime",
    "BusMessage",
    "Caller",
    "CallerKind",
    "ConsumerState",
    "FieldError",
    "Headers",
    "HttpMethod",
    "InvalidJson",
    "Keys",
    "Lifecycle",
    "NotReady",
    "Problem",
    "QueueRoute",
    "Request",
    "Response",
    "Route",
    "RouteError",
    "RouteRegistry",
    "RuntimeConfig",
    "RuntimeConfigError",
    "ServeError",
    "TimerRoute",
    "TimerTick",
    "TopicRoute",
    "create_runtime",
    "load_runtime_config",
    "route",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}")
    value: object = getattr(import_module(f"runtime.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
