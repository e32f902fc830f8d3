from __future__ import annotations

import subprocess
import sys

import pytest

import runtime

PROBE = """
import sys, time
began = time.process_time()
import runtime
spent = time.process_time() - began
from runtime import RouteRegistry, Request, route
heavy = [m for m in sys.modules if m.split(".")[0] in ("azure", "starlette", "uvicorn", "pydantic", "aos", "emulators")]
print(int(spent * 1000), heavy)
"""


def test_importing_the_package_is_cheap_and_pulls_in_no_framework() -> None:
    for _ in range(20):  # what a busy machine adds to one import is not added to each
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
        milliseconds, heavy = done.stdout.split(maxsplit=1)
        assert heavy.strip() == "[]"
        if int(milliseconds) < 50:
            return
    pytest.fail("importing the package takes longer than 50 ms")


def test_every_public_name_resolves() -> None:
    assert {name for name in runtime.__all__ if getattr(runtime, name, None) is None} == set()
    assert set(runtime.__all__) <= set(dir(runtime))
