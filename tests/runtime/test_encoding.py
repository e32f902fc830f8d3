from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from uuid import UUID

import azure.functions as func
import pytest
from pydantic import BaseModel, Field

from runtime import FieldError, Problem, Response
from runtime.encoding import BYTES, JSON, TEXT, Answer, encode, encode_problem


class Model(BaseModel):
    agent_id: str = Field(serialization_alias="agentId")
    at: datetime


MODEL = Model(agent_id="ceo", at=datetime(2026, 1, 2, tzinfo=UTC))
NATIVE = func.HttpResponse(b"{}", status_code=201, mimetype=JSON, headers={"X-A": "b"})
UUID_JSON = b'"00000000-0000-0000-0000-000000000001"'
MODEL_JSON = b'{"agentId":"ceo","at":"2026-01-02T00:00:00Z"}'


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        (None, Answer(204)),
        ({"ä": [1.5, True, None]}, Answer(200, {"content-type": JSON}, '{"ä":[1.5,true,null]}'.encode())),
        ([], Answer(200, {"content-type": JSON}, b"[]")),
        (MODEL, Answer(200, {"content-type": JSON}, MODEL_JSON)),
        ([MODEL, UUID(int=1)], Answer(200, {"content-type": JSON}, b"[%b,%b]" % (MODEL_JSON, UUID_JSON))),
        ("grün", Answer(200, {"content-type": TEXT}, "grün".encode())),
        (b"\x00", Answer(200, {"content-type": BYTES}, b"\x00")),
        (Response(), Answer(200)),
        (Response(404), Answer(404)),
        (Response(200, "<p>", media_type="text/html"), Answer(200, {"content-type": "text/html"}, b"<p>")),
        (Response(200, {}, {"Content-Type": "a/x", "X": "1"}), Answer(200, {"content-type": "a/x", "x": "1"}, b"{}")),
        (Response(200, MappingProxyType({"a": 1})), Answer(200, {"content-type": JSON}, b'{"a":1}')),
        (func.HttpResponse("hi"), Answer(200, {"content-type": TEXT}, b"hi")),
        (NATIVE, Answer(201, {"x-a": "b", "content-type": JSON}, b"{}")),
    ],
)
def test_encode(result: object, answer: Answer) -> None:
    assert encode(result) == answer


@dataclass
class Plain:
    a: int = 1


@pytest.mark.parametrize("result", [("a", 200), {1, 2}, 5, True, Plain(), object()])
def test_other_results_are_an_error_that_says_what_to_return(result: object) -> None:
    with pytest.raises(TypeError, match=r"runtime\.Response"):
        encode(result)
    with pytest.raises(TypeError, match="a response body must be"):
        encode(Response(200, result))  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    "headers", [{"X": "a\r\nb: c"}, {"X": "a\nb"}, {"X Y": "a"}, {"": "a"}, {"X": "grün"}, {"X:": "a"}]
)
def test_headers_that_would_split_or_break_the_answer_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="HTTP cannot carry"):
        encode(Response(200, "x", headers))


def test_a_problem_is_an_rfc_9457_document() -> None:
    problem = Problem(
        429, "rate_limited", detail="Wait.", errors=[FieldError("/a", "too many")], headers={"Retry-After": "3"}
    )
    answer = encode_problem(problem, "r-1")
    assert answer.status == 429
    assert answer.headers == {"retry-after": "3", "content-type": "application/problem+json"}
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "code": "rate_limited",
        "detail": "Wait.",
        "request_id": "r-1",
        "errors": [{"pointer": "/a", "detail": "too many"}],
    }
    assert str(problem) == "429 rate_limited: Wait."
