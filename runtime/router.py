"""Path matching as the Azure Functions host does it (ASP.NET Core routing), for hosts that leave it to us.

Case does not matter, a literal segment goes before a parameter whatever the order of registration, one trailing slash
is ignored, and a percent-encoded slash stays encoded in a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from runtime.problems import method_not_allowed, not_found
from runtime.routes import HttpMethod, Route


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)  # by method


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
        node = _descend(self._root, segments, 0)
        if node is None:
            raise not_found("/" + path)
        route = node.routes.get(method)
        if route is None and method == HttpMethod.HEAD:
            route = node.routes.get(HttpMethod.GET)
        if route is None:
            allowed = {str(known) for known in node.routes}
            raise method_not_allowed(method, allowed | {"HEAD"} if HttpMethod.GET in allowed else allowed)
        pairs = zip(route.segments, segments, strict=True)
        return route, {name[1:-1]: value for name, value in pairs if name.startswith("{")}


def _descend(node: _Node, segments: list[str], index: int) -> _Node | None:
    if index == len(segments):
        return node if node.routes else None
    segment = segments[index]
    literal = node.literals.get(segment.casefold())
    if literal is not None and (found := _descend(literal, segments, index + 1)) is not None:
        return found
    if node.parameter is not None and segment:
        return _descend(node.parameter, segments, index + 1)
    return None


def _decode(segment: str) -> str:
    return unquote(segment).replace("/", "%2F") if "%" in segment else segment
