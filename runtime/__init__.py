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
    from runtime.auth import Keys, NamedKey
    from runtime.azure_functions_runtime import AzureFunctionsRuntime, create_runtime
    from runtime.bus_consumer import ConsumerState
    from runtime.config_loader import RuntimeConfig, RuntimeConfigError, load_runtime_config
    from runtime.key_settings import KeySettingError, parse_keys
    from runtime.lifecycle import Lifecycle, NotReady
    from runtime.messages import BusMessage, Caller, CallerKind, Headers, Request, Response, StorageMessage, TimerTick
    from runtime.openapi import openapi_document
    from runtime.outgoing import CircuitOpen, Outgoing
    from runtime.problems import FieldError, InvalidJson, Problem
    from runtime.route_checks import RouteError
    from runtime.routes import (
        Answers,
        AuthLevel,
        HttpMethod,
        Parameter,
        QueueRoute,
        Route,
        StorageQueueRoute,
        TimerRoute,
        TopicRoute,
    )
    from runtime.routes_registry import RouteRegistry, route
    from runtime.storage import Storage, open_storage
    from runtime.tokens import Entra

_HOMES = {
    "AgentConfig": "agent_framework_runtime",
    "AgentExists": "agent_framework_runtime",
    "AgentFrameworkRuntime": "agent_framework_runtime",
    "Answers": "routes",
    "AsgiRuntime": "asgi_runtime",
    "AuthLevel": "routes",
    "AzureFunctionsRuntime": "azure_functions_runtime",
    "BusMessage": "messages",
    "Caller": "messages",
    "CallerKind": "messages",
    "CircuitOpen": "outgoing",
    "ConsumerState": "bus_consumer",
    "Entra": "tokens",
    "FieldError": "problems",
    "Headers": "messages",
    "HttpMethod": "routes",
    "InvalidJson": "problems",
    "KeySettingError": "key_settings",
    "Keys": "auth",
    "Lifecycle": "lifecycle",
    "NamedKey": "auth",
    "NotReady": "lifecycle",
    "Outgoing": "outgoing",
    "Parameter": "routes",
    "Problem": "problems",
    "QueueRoute": "routes",
    "Request": "messages",
    "Response": "messages",
    "Route": "routes",
    "RouteError": "route_checks",
    "RouteRegistry": "routes_registry",
    "RuntimeConfig": "config_loader",
    "RuntimeConfigError": "config_loader",
    "ServeError": "asgi_runtime",
    "Storage": "storage",
    "StorageMessage": "messages",
    "StorageQueueRoute": "routes",
    "TimerRoute": "routes",
    "TimerTick": "messages",
    "TopicRoute": "routes",
    "create_runtime": "azure_functions_runtime",
    "load_runtime_config": "config_loader",
    "open_storage": "storage",
    "openapi_document": "openapi",
    "parse_keys": "key_settings",
    "route": "routes_registry",
}

__all__ = [
    "AgentConfig",
    "AgentExists",
    "AgentFrameworkRuntime",
    "Answers",
    "AsgiRuntime",
    "AuthLevel",
    "AzureFunctionsRuntime",
    "BusMessage",
    "Caller",
    "CallerKind",
    "CircuitOpen",
    "ConsumerState",
    "Entra",
    "FieldError",
    "Headers",
    "HttpMethod",
    "InvalidJson",
    "KeySettingError",
    "Keys",
    "Lifecycle",
    "NamedKey",
    "NotReady",
    "Outgoing",
    "Parameter",
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
    "Storage",
    "StorageMessage",
    "StorageQueueRoute",
    "TimerRoute",
    "TimerTick",
    "TopicRoute",
    "create_runtime",
    "load_runtime_config",
    "open_storage",
    "openapi_document",
    "parse_keys",
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
