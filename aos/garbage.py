"""How often Python looks for garbage while a process of AOS starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ALLOCATIONS = 50_000
"""New objects after which the youngest generation is looked through; Python's own 700 to 2,000 are for small programs.
The imports of a start leave some 200,000: a sixth of its time went into looking at them again and again."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """For what allocates much that stays: imports, a start. Afterwards it is as before, which keeps memory small."""
    before = gc.get_threshold()
    gc.set_threshold(ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
