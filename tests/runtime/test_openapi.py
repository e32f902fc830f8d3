from __future__ import annotations

import pytest
from pydantic import BaseModel

from runtime import Answers, RouteError, RouteRegistry, openapi_document


class Receipt(BaseModel):
    """A model whose module is imported when the document is made."""

    number: int


def handler(request: object) -> None:
    """Answers."""


def test_a_model_by_its_name_is_described_like_the_model_itself() -> None:
    by_name, by_class = RouteRegistry(), RouteRegistry()
    name = f"{__name__}:Receipt"
    by_name.register("a", handler, response_model=name, answers={202: Answers("Later.", name)})
    by_class.register("a", handler, response_model=Receipt, answers={202: Answers("Later.", Receipt)})
    document = openapi_document(by_name, title="t", version="1")
    assert document == openapi_document(by_class, title="t", version="1")
    assert "Receipt" in str(document["components"])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_package:Receipt", "No module named 'no_such_package'"),
        (f"{__name__}:Nothing", "has no attribute 'Nothing'"),
        (f"{__name__}:handler", "it is no pydantic model"),
    ],
)
def test_a_name_that_is_no_model_is_told_with_its_route(name: str, why: str) -> None:
    registry = RouteRegistry()
    registry.register("receipts", handler, response_model=name)
    registry.check()
    with pytest.raises(RouteError, match=rf"HTTP route 'receipts'.*{why} \[.*test_openapi.py:\d+\]"):
        openapi_document(registry, title="t", version="1")
