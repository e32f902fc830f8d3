"""Every test that `docs/guarantees.md` names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/guarantees.md").read_text())


def test_every_promise_names_a_test() -> None:
    promises = re.split(
        r"^\*\*", (ROOT / "docs/guarantees.md").read_text().split("## What is not promised")[0], flags=re.M
    )
    assert len(promises) > 10
    assert all("`tests/" in promise for promise in promises)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_exists(file: str, name: str) -> None:
    source = (ROOT / file).read_text()
    assert re.search(rf"^(?:async )?def {name}\(|^{name} = ", source, flags=re.M)
