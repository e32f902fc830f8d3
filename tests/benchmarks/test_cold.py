"""A cold start stays cheap. Guards are ratios within one run: absolute times are those of the machine."""

from __future__ import annotations

from benchmarks.cold import ENTRY, FLOOR, HEAVY, cpu_ms, imported

MOST = 5.0
"""Times the floor that the import of the app may cost, each less the bare interpreter."""


def test_the_app_is_indexed_without_any_sdk() -> None:
    assert imported(ENTRY) & set(HEAVY) == set()


def test_the_app_is_imported_for_little_more_than_what_every_function_app_imports() -> None:
    cpu_ms(ENTRY)
    rounds: list[tuple[float, float, float]] = []
    ratios: list[float] = []
    for _ in range(6):
        # All of one round meet the same neighbours on the machine; in the best round these disturbed them the least.
        bare, floor, ours = cpu_ms("pass"), cpu_ms(FLOOR), cpu_ms(ENTRY)
        rounds.append((bare, floor, ours))
        ratios.append((ours - bare) / (floor - bare))
    assert min(ratios) < MOST, rounds
