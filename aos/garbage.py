"""How often Python looks for garbage in a process of AOS."""

from __future__ import annotations

import gc

ALLOCATIONS = 50_000
"""New objects after which the youngest generation is looked through; Python's own 700 to 2,000 are for small programs.
The imports of a start leave some 200,000: a sixth of its time went into looking at them again and again."""
ROUNDS = 20
"""Looks at a generation after which the next older one is looked through too."""


def collect_seldom() -> None:
    """For the whole process, before anything large is imported. What is in no cycle is freed at once, as before."""
    gc.set_threshold(ALLOCATIONS, ROUNDS, ROUNDS)
