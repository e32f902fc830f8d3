from __future__ import annotations

import subprocess
import sys

LOOKS = """
import gc
from contextlib import nullcontext
from aos.garbage import seldom_collected
before = gc.get_threshold()
with {how}():
    import aos.system, openai.types.responses
    print(sum(generation["collections"] for generation in gc.get_stats()))
assert gc.get_threshold() == before
"""


def looks(how: str) -> int:
    """How often a process has looked for garbage when it has imported what AOS needs."""
    source = LOOKS.format(how=how)
    return int(subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout)


def test_imports_are_hardly_looked_through() -> None:
    assert looks("seldom_collected") < looks("nullcontext") / 10
