from __future__ import annotations

import pytest

from runtime import HttpMethod, Problem, Request, RouteRegistry
from runtime.router import Router


def handler(request: Request) -> None:
    del request


@pytest.fixture
def router() -> Router:
    registry = RouteRegistry()
    registry.register("agents/{agent_id}", handler, name="agent")
    registry.register("agents/{id}", handler, [HttpMethod.POST], name="talk")
    registry.register("agents/all", handler, name="all")
    registry.register("agents/{agent_id}/status", handler, name="status")
    registry.register("agents/all/summary", handler, name="summary")
    registry.register("agents/all/summary", handler, ["HEAD"], name="summary_head")
    return Router(registry.http_routes)


@pytest.mark.parametrize(
    ("method", "path", "name", "parameters"),
    [
        ("GET", "agents/ceo", "agent", {"agent_id": "ceo"}),
        ("POST", "agents/ceo", "talk", {"id": "ceo"}),
        ("GET", "agents/all", "all", {}),
        ("GET", "AGENTS/ALL/", "all", {}),
        ("POST", "agents/all", "talk", {"id": "all"}),  # the more specific route does not take the method
        ("GET", "agents/CEO", "agent", {"agent_id": "CEO"}),
        ("GET", "agents/all/status", "status", {"agent_id": "all"}),
        ("HEAD", "agents/ceo", "agent", {"agent_id": "ceo"}),
        ("HEAD", "agents/all/summary", "summary_head", {}),
        ("GET", "agents/a%20b%2Fc", "agent", {"agent_id": "a b%2Fc"}),
        ("GET", "%61gents/x", "agent", {"agent_id": "x"}),
    ],
)
def test_find(router: Router, method: str, path: str, name: str, parameters: dict[str, str]) -> None:
    route, found = router.find(method, path)
    assert (route.name, found) == (name, parameters)


@pytest.mark.parametrize("path", ["", "agents", "agents/", "agents//status", "agents/a/b", "x", "agents/a/status/x"])
def test_no_route(router: Router, path: str) -> None:
    with pytest.raises(Problem) as caught:
        router.find("GET", path)
    assert (caught.value.status, caught.value.code) == (404, "route_not_found")


def test_no_method_names_the_others(router: Router) -> None:
    with pytest.raises(Problem) as caught:
        router.find("DELETE", "agents/ceo/status")
    assert caught.value.status == 405
    assert caught.value.headers == {"Allow": "GET, HEAD"}
    with pytest.raises(Problem) as caught:
        router.find("DELETE", "agents/all")
    assert caught.value.headers == {"Allow": "GET, HEAD, POST"}
