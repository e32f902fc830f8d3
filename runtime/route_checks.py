"""What is wrong with a route, before anything is built from it. Every check yields all that it finds."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from runtime.routes import (
    AnyRoute,
    BusRoute,
    HttpMethod,
    Parameter,
    QueueRoute,
    Route,
    StorageQueueRoute,
    TimerRoute,
    TopicRoute,
    is_setting_reference,
)

PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

_MODEL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
# Function names of the Functions host; `host` is a segment of its own API, `warmup` is bound by the runtime.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}")
_RESERVED_NAMES = frozenset({"host", "warmup"})
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")  # pchar of RFC 3986 without percent-encoding
_ENTITY = re.compile(r"%[^%\s]+%|[A-Za-z0-9]([A-Za-z0-9._/-]{0,258}[A-Za-z0-9])?")
# A queue may have 63 characters; what fails again and again goes to `{queue}-poison`.
STORAGE_QUEUE = re.compile(r"(?=.{3,56}\Z)[a-z0-9](-?[a-z0-9])*")
STORAGE_SUFFIXES = ("", "__queueServiceUri", "__accountName")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*")
_HERE = str(Path(__file__).parent)


class RouteError(ValueError):
    """Routes cannot be served. `faults` has a line per mistake: the route, what is wrong, file and line."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        count = f"{len(self.faults)} mistakes" if len(self.faults) != 1 else "1 mistake"
        super().__init__(f"{count} in the routes:\n" + "\n".join(f"  - {fault}" for fault in self.faults))


def route_faults(route: AnyRoute) -> Iterator[str]:
    """What is wrong with a route, whatever the others are."""
    if not _NAME.fullmatch(route.name) or route.name.casefold() in _RESERVED_NAMES:
        rule = "a letter, then up to 127 letters, digits, '_' or '-'; not 'host' or 'warmup'"
        yield f"{route.name!r} is not a function name ({rule}); pass name="
    yield from _handler_faults(route.handler)
    if isinstance(route, Route):
        yield from _path_faults(route.path)
        yield from _parameter_faults(route)
        yield from _model_faults(route)
        if route.max_body_bytes < 0:
            yield f"max_body_bytes must not be negative, but is {route.max_body_bytes}"
    elif isinstance(route, TimerRoute):
        fields = len(route.schedule.split())
        if not is_setting_reference(route.schedule) and fields != 6:
            remedy = "NCRONTAB has six: second minute hour day month day-of-week"
            yield f"schedule {route.schedule!r} has {fields} fields; {remedy}"
    elif isinstance(route, StorageQueueRoute):
        if not is_setting_reference(route.queue) and not STORAGE_QUEUE.fullmatch(route.queue):
            rule = "3 to 56 of a-z, 0-9 and single '-' between them, or %SETTING%; it has a '-poison' beside it"
            yield f"{route.queue!r} is not the name of a storage queue ({rule})"
        yield from _consumer_faults(route.connection, route.max_concurrency)
    else:
        yield from _bus_faults(route)


def missing_settings(route: AnyRoute, settings: Mapping[str, str]) -> Iterator[str]:
    """The settings that a route refers to and that are not there, as the Functions host looks for them."""
    references: tuple[str, ...] = ()
    if isinstance(route, TimerRoute):
        references = (route.schedule,)
    elif isinstance(route, (QueueRoute, TopicRoute)) and route.required:
        references = (route.topic, route.subscription) if isinstance(route, TopicRoute) else (route.queue,)
        name = route.connection
        if not _is_set(settings, name) and not _is_set(settings, f"{name}__fullyQualifiedNamespace"):
            yield f"neither {name} nor {name}__fullyQualifiedNamespace is set"
    elif isinstance(route, StorageQueueRoute) and route.required:
        references = (route.queue,)
        if not any(_is_set(settings, f"{route.connection}{suffix}") for suffix in STORAGE_SUFFIXES):
            yield f"none of {', '.join(f'{route.connection}{suffix}' for suffix in STORAGE_SUFFIXES)} is set"
    for reference in references:
        if is_setting_reference(reference) and not _is_set(settings, reference.strip("%")):
            yield f"the setting {reference.strip('%')} is not set"


def shadowed(routes: Iterable[Route]) -> Iterator[tuple[Route, str]]:
    """Routes that the Functions host would never call.

    It tries routes in the alphabetical order of function names, and takes the first whose template fits: a parameter
    that comes before a literal hides it (azure-functions-host issue 9876).
    """
    known = sorted(routes, key=lambda route: route.name.casefold())
    for index, later in enumerate(known):
        for earlier in known[:index]:
            if set(earlier.methods) & set(later.methods) and _hides(earlier.segments, later.segments):
                yield (
                    later,
                    f"on Azure Functions {earlier.path!r} ({earlier.name}) takes its requests, because functions are "
                    f"tried in the order of their names; pass a name= that sorts before {earlier.name!r}",
                )


def _model_faults(route: Route) -> Iterator[str]:
    for model in (route.response_model, *(answer.model for answer in route.answers.values())):
        if isinstance(model, str) and not _MODEL.fullmatch(model):
            yield f"{model!r} names no model; write package.module:Name"


def describe(route: AnyRoute, fault: str) -> str:
    """A line of a `RouteError`."""
    return f"{route.label}: {fault} [{_places(route)}]"


def location(handler: object) -> str | None:
    """File and line of the function behind a handler, if it is written in Python."""
    code = getattr(function_of(handler), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else None


def declaration() -> str:
    """File and line outside this package that is registering a route right now."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def function_of(handler: object) -> object:
    """The function behind decorators, functools.partial and instances with `__call__`."""
    inner = inspect.unwrap(handler) if callable(handler) else handler
    while isinstance(inner, functools.partial):
        inner = inner.func
    return inner if inspect.isroutine(inner) else inspect.getattr_static(type(inner), "__call__", inner)


def parse_methods(methods: Iterable[HttpMethod | str]) -> tuple[HttpMethod, ...]:
    """Raises `ValueError` that says what is allowed."""
    if isinstance(methods, str):
        raise ValueError(f"methods must be a list, as in methods=[{methods!r}]")
    try:
        verbs = tuple(dict.fromkeys(HttpMethod(str(method).upper()) for method in methods))
    except ValueError as error:
        raise ValueError(f"{error}; known methods: {', '.join(HttpMethod)}") from None
    if not verbs:
        raise ValueError("methods is empty")
    return verbs


def _places(route: AnyRoute) -> str:
    handler = location(route.handler)
    if not route.declared_at or handler == route.declared_at:
        return handler or repr(route.handler)
    return f"{route.declared_at}; handler {handler}" if handler is not None else route.declared_at


def _is_set(settings: Mapping[str, str], name: str) -> bool:
    return bool(settings.get(name, "").strip())


def _hides(earlier: Sequence[str], later: Sequence[str]) -> bool:
    """Whether every path of `later` fits `earlier` too, or some do and it is the more specific one there."""
    if len(earlier) != len(later):
        return False
    more_specific: bool | None = None
    for first, second in zip(earlier, later, strict=True):
        open_first, open_second = first.startswith("{"), second.startswith("{")
        if not open_first and not open_second and first.casefold() != second.casefold():
            return False
        if open_first != open_second and more_specific is None:
            more_specific = open_first
    return more_specific is True


def _path_faults(path: str) -> Iterator[str]:
    if not path:
        yield "the path is empty"
        return
    seen: set[str] = set()
    for segment in path.split("/"):
        parameter = PARAMETER.fullmatch(segment)
        if parameter is None:
            if not _LITERAL.fullmatch(segment) or segment in (".", ".."):
                yield f"segment {segment!r} is neither a literal nor one {{parameter}}"
        elif parameter[1] in seen:
            yield f"parameter {{{parameter[1]}}} appears twice"
        else:
            seen.add(parameter[1])
    if path.split("/")[0].casefold() in ("admin", "runtime"):
        yield "the Functions host keeps paths under 'admin' and 'runtime' for itself"


def _parameter_faults(route: Route) -> Iterator[str]:
    names = {segment[1:-1] for segment in route.segments if PARAMETER.fullmatch(segment)}
    for parameter in route.parameters:
        if parameter.where == "path" and parameter.name not in names:
            yield f"the path has no parameter {{{parameter.name}}}"
        yield from _kind_faults(parameter)
    for scope in route.scopes:
        for name in re.findall(r"\{([^}]*)\}", scope):
            if name not in names:
                yield f"scope {scope!r} refers to {{{name}}}, which the path does not have"


def _kind_faults(parameter: Parameter) -> Iterator[str]:
    if parameter.kind is str:
        return
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        TypeAdapter[object](parameter.kind).json_schema()
    except PydanticUserError as error:
        yield f"parameter {parameter.name!r} has a type that cannot be read from text: {error.message.splitlines()[0]}"


def _bus_faults(route: BusRoute) -> Iterator[str]:
    for entity in (route.topic, route.subscription) if isinstance(route, TopicRoute) else (route.queue,):
        if not _ENTITY.fullmatch(entity):
            yield f"{entity!r} is not the name of a Service Bus entity, nor %SETTING%"
    yield from _consumer_faults(route.connection, route.max_concurrency)


def _consumer_faults(connection: str, max_concurrency: int) -> Iterator[str]:
    if not _SETTING.fullmatch(connection):
        yield "connection must be the NAME of a setting, not its value"
    if not 1 <= max_concurrency <= 1000:
        yield f"max_concurrency must be from 1 to 1000, but is {max_concurrency}"


def _handler_faults(handler: object) -> Iterator[str]:
    if not callable(handler):
        yield f"the handler is not callable: {handler!r}"
        return
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        yield "the handler is a generator; to stream, return Response(stream=...)"
    try:
        signature = inspect.signature(handler)
    except ValueError as error:
        yield f"the handler's signature cannot be read: {error}"
        return
    parameters = signature.parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    other = [p for p in parameters if p.kind is p.VAR_POSITIONAL or (p.kind is p.KEYWORD_ONLY and p.default is p.empty)]
    if len(positional) != 1 or other:
        yield f"the handler must take exactly one argument, but its signature is {signature}"
