from __future__ import annotations

from benchmarks.broker import compare


async def test_the_emulator_is_cheaper_than_the_sdk_that_speaks_to_it() -> None:
    found = await compare(rounds=1, messages=400)
    assert set(found) == {"in memory", "SQLite"}
    for figures in found.values():
        assert figures.p50_ms > 0
        if figures.broker_us is not None:
            # Else the tests and benchmarks would measure the emulator instead of AOS.
            assert figures.broker_us < figures.client_us
