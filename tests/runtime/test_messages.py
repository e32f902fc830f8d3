from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from runtime import BusMessage, Headers, InvalidJson, Problem, Request


class Cat(BaseModel):
    kind: Literal["cat"]
    name: str
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    dog: int


class Body(BaseModel):
    message: str
    size: int | list[int] = 0
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = []
    odd: dict[str, int] = {}


def pointers(body: str) -> dict[str, str]:
    with pytest.raises(Problem) as caught:
        Request("POST", "http://h/api/a", "/api/a", body=body.encode()).parse(Body)
    assert (caught.value.status, caught.value.code) == (422, "invalid_body")
    return {error.pointer: error.detail for error in caught.value.errors}


def test_headers_ignore_case_and_join_repeats() -> None:
    headers = Headers([("X-A", "1"), ("x-a", "2"), ("Content-Type", "text/plain")])
    assert headers["X-a"] == "1, 2"
    assert headers.get("content-type") == "text/plain"
    assert "CONTENT-TYPE" in headers
    assert headers.get("nope") is None
    assert len(headers) == 2
    assert "1, 2" not in repr(headers)


def test_request_has_the_names_of_azure_functions() -> None:
    request = Request("POST", "http://h/api/a?x=1", "/api/a", query={"x": "1"}, body=b'{"a": 1}')
    assert request.params["x"] == "1"
    assert request.get_body() == b'{"a": 1}'
    assert request.get_json() == request.json() == {"a": 1}
    assert request.text() == '{"a": 1}'


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a": NaN}'])
def test_bad_json_is_a_problem_and_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="invalid_json") as caught:
        Request("POST", "u", "/", body=body).get_json()
    assert isinstance(caught.value, InvalidJson)
    assert caught.value.status == 400
    with pytest.raises(InvalidJson):
        BusMessage(body, "queue").parse(Body)


def test_parse_gives_the_model() -> None:
    body = b'{"message": "hi", "pets": [{"kind": "dog", "dog": 2}]}'
    parsed = BusMessage(body, "queue").parse(Body)
    assert parsed.pets == [Dog(kind="dog", dog=2)]


def test_pointers_point_into_the_body() -> None:
    assert pointers('{"pets": [{"kind": "cat"}, {"kind": "cat", "name": 5}], "odd": {"a/b~c": "x"}}') == {
        "/message": "Field required",
        "/pets/0/name": "Field required",
        "/pets/1/name": "Input should be a valid string",
        "/odd/a~1b~0c": "Input should be a valid integer, unable to parse string as an integer",
    }


def test_union_tags_and_members_are_left_out_even_when_a_field_has_their_name() -> None:
    assert list(pointers('{"message": "m", "pets": [{"kind": "dog", "dog": "x"}]}')) == ["/pets/0/dog"]
    assert list(pointers('{"message": "m", "pets": [{"kind": "cat", "cat": {}}]}')) == ["/pets/0/name"]
    assert list(pointers('{"message": "m", "pets": [{"kind": "cow"}]}')) == ["/pets/0"]
    assert list(pointers('{"message": "m", "size": "x"}')) == ["/size"]


def test_a_body_of_the_wrong_type_points_at_the_whole() -> None:
    assert list(pointers("[]")) == [""]


def test_the_number_of_reported_faults_is_bounded() -> None:
    assert len(pointers('{"message": "m", "odd": {' + ",".join(f'"k{n}": "x"' for n in range(400)) + "}}")) == 50
