from __future__ import annotations

import subprocess
import sys

LOOKS = """
import gc
{before}
import aos.system, openai.types.responses
print(sum(generation["collections"] for generation in gc.get_stats()))
"""


def looks(before: str) -> int:
    """How often a process has looked for garbage when it has imported what AOS needs."""
    done = subprocess.run(
        [sys.executable, "-c", LOOKS.format(before=before)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_imports_are_hardly_looked_through() -> None:
    seldom = looks("from aos.garbage import collect_seldom; collect_seldom()")
    assert seldom < looks("") / 10
