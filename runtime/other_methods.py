"""What the Functions host is told to let through besides a route's methods, so that 405 is answered here.

The host looks for path and method together: a method that no function declares is a 404 without a body
(azure-functions-host issue 10098). So one function of each path declares the methods that nothing answers there, at its
own level: the host still turns away who has no key, and what gets through meets no handler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runtime.routes import HttpMethod, Route


@dataclass(frozen=True, slots=True)
class OtherMethods:
    """Of one path: those that are refused, and those that the `Allow` header names."""

    refused: frozenset[HttpMethod]
    allowed: frozenset[HttpMethod]


def other_methods(routes: Sequence[Route]) -> Mapping[str, OtherMethods]:
    """By the name of the route that is to answer for its path: the first one that was registered for it.

    A method is left to any route whose template can fit the same paths, such as `items/recent` beside `items/{id}`.
    """
    found: dict[str, OtherMethods] = {}
    shapes: set[tuple[str, ...]] = set()
    for route in routes:
        shape = _shape(route)
        if shape in shapes:
            continue
        shapes.add(shape)
        allowed = _answered(other for other in routes if _covers(_shape(other), shape))
        taken = _answered(other for other in routes if _meet(_shape(other), shape))
        found[route.name] = OtherMethods(frozenset(HttpMethod) - taken, allowed)
    return found


def _answered(routes: Iterable[Route]) -> frozenset[HttpMethod]:
    methods = {method for route in routes for method in route.methods}
    return frozenset(methods | {HttpMethod.HEAD} if HttpMethod.GET in methods else methods)


def _shape(route: Route) -> tuple[str, ...]:
    """The template without what its parameters are called."""
    return tuple("{}" if segment.startswith("{") else segment.casefold() for segment in route.segments)


def _covers(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether every path that fits `other` fits `one`."""
    return len(one) == len(other) and all(a in (b, "{}") for a, b in zip(one, other, strict=True))


def _meet(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether a path can fit both."""
    return len(one) == len(other) and all(a == b or "{}" in (a, b) for a, b in zip(one, other, strict=True))
