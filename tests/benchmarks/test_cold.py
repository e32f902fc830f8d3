"""A cold start stays cheap. Guards are ratios within one run: absolute times are those of the machine."""

from __future__ import annotations

import pytest

from benchmarks.cold import ENTRY, FLOOR, HEAVY, cpu_ms, imported

MOST = 5.0
"""Times the floor that the import of the app may cost, each less the bare interpreter."""
ROUNDS = 8
"""All of one round meet the same neighbours on the machine; in the best round these disturbed them the least."""


def test_the_app_is_indexed_without_any_sdk() -> None:
    assert imported(ENTRY) & set(HEAVY) == set()


def test_the_app_is_imported_for_little_more_than_what_every_function_app_imports() -> None:
    cpu_ms(ENTRY)
    rounds: list[tuple[float, float, float]] = []
    for _ in range(ROUNDS):
        bare, floor, ours = cpu_ms("pass"), cpu_ms(FLOOR), cpu_ms(ENTRY)
        rounds.append((bare, floor, ours))
        if ours - bare < MOST * (floor - bare):
            return
    pytest.fail(f"CPU ms of the bare interpreter, the floor and the app, in each round: {rounds}")
