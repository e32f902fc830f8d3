"""Path matching as the Azure Functions host does it (ASP.NET Core routing), for hosts that leave it to us.

Case does not matter, a literal segment goes before a parameter whatever the order of registration, but only among the
routes that take the method; one trailing slash is ignored, and a percent-encoded slash stays encoded in a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from runtime.problems import method_not_allowed, not_found
from runtime.routes import HttpMethod, Route


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)  # by method

    def route(self, method: str) -> Route | None:
        found = self.routes.get(method)
        return self.routes.get(HttpMethod.GET) if found is None and method == HttpMethod.HEAD else found


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            node = self._root
            for segment in route.segments:
                if segment.startswith("{"):
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.literals.setdefault(segment.casefold(), _Node())
            node.routes.update(dict.fromkeys(route.methods, route))

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        """The route and its parameters for a percent-encoded path below the prefix, without a leading slash.

        HEAD is served by GET where it has no route of its own (RFC 9110 section 9.3.2). Raises a 404 or 405 `Problem`.
        """
        segments = [_decode(segment) for segment in path.removesuffix("/").split("/")]
        nodes = list(_fitting(self._root, segments, 0))
        if not nodes:
            raise not_found("/" + path)
        route = next((found for node in nodes if (found := node.route(method)) is not None), None)
        if route is None:
            allowed = {str(known) for node in nodes for known in node.routes}
            raise method_not_allowed(method, allowed | {"HEAD"} if HttpMethod.GET in allowed else allowed)
        pairs = zip(route.segments, segments, strict=True)
        return route, {name[1:-1]: value for name, value in pairs if name.startswith("{")}


def _fitting(node: _Node, segments: list[str], index: int) -> Iterator[_Node]:
    """The nodes with routes for this path, the most specific first."""
    if index == len(segments):
        if node.routes:
            yield node
        return
    segment = segments[index]
    literal = node.literals.get(segment.casefold())
    if literal is not None:
        yield from _fitting(literal, segments, index + 1)
    if node.parameter is not None and segment:
        yield from _fitting(node.parameter, segments, index + 1)


def _decode(segment: str) -> str:
    return unquote(segment).replace("/", "%2F") if "%" in segment else segment
