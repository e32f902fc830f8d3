"""A cold start stays cheap. Guards are ratios within one run: absolute times are those of the machine."""

from __future__ import annotations

from benchmarks.cold import ENTRY, FLOOR, HEAVY, cpu_ms, imported

MOST = 5.0
"""Times the floor that the import of the app may cost, each less the bare interpreter."""


def test_the_app_is_indexed_without_any_sdk() -> None:
    assert imported(ENTRY) & set(HEAVY) == set()


def test_the_app_is_imported_for_little_more_than_what_every_function_app_imports() -> None:
    cpu_ms(ENTRY)
    # The least of some runs by turns: neighbours on the machine only ever add.
    rounds = [(cpu_ms("pass"), cpu_ms(FLOOR), cpu_ms(ENTRY)) for _ in range(4)]
    bare, floor, ours = (min(figures) for figures in zip(*rounds, strict=True))
    assert (ours - bare) / (floor - bare) < MOST, rounds
