from __future__ import annotations

from runtime import HttpMethod, RouteRegistry
from runtime.other_methods import OtherMethods, other_methods

GET, POST, DELETE, HEAD = HttpMethod.GET, HttpMethod.POST, HttpMethod.DELETE, HttpMethod.HEAD


def settled(*routes: tuple[str, str, HttpMethod]) -> dict[str, OtherMethods]:
    registry = RouteRegistry()
    for name, path, method in routes:
        registry.register(path, lambda request: "", [method], name=name)
    return dict(other_methods(registry.http_routes))


def test_the_first_route_of_a_path_answers_for_it_whatever_its_parameters_are_called() -> None:
    found = settled(("one", "items/{id}", GET), ("two", "Items/{name}", DELETE))
    assert set(found) == {"one"}
    assert found["one"].allowed == {GET, HEAD, DELETE}
    assert found["one"].refused == set(HttpMethod) - {GET, HEAD, DELETE}


def test_templates_that_meet_leave_their_methods_to_each_other() -> None:
    found = settled(("any", "items/{id}", GET), ("recent", "items/recent", POST), ("far", "a/b/c", DELETE))
    assert found["any"].allowed == {GET, HEAD}
    assert found["recent"].allowed == {GET, HEAD, POST}  # GET items/recent reaches items/{id}
    assert found["any"].refused == found["recent"].refused == set(HttpMethod) - {GET, HEAD, POST}
    assert found["far"].refused == set(HttpMethod) - {DELETE}
