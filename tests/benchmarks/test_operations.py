"""What a turn costs in requests is part of what AOS promises (docs/scale.md): these are ceilings."""

from __future__ import annotations

import pytest

from benchmarks.operations import operations


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_turn_asks_no_more_of_its_neighbours_than_documented() -> None:
    found = await operations(turns=4)
    http, tool, bus = found["http"], found["http, one tool"], found["bus"]
    assert 5 <= http.table_requests <= 12
    assert http.foundry_requests == 1
    assert http.bus_sent == http.bus_received == http.blob_requests == 0
    assert http.table_requests < tool.table_requests <= 19
    assert tool.foundry_requests == 2
    # What arrives in the moment in which a receive ends is handed back, and comes again.
    assert (tool.bus_sent, tool.bus_settled) == (2, tool.bus_received)
    assert 2 <= tool.bus_received < 3
    assert 5 <= bus.table_requests <= 12
    assert bus.foundry_requests == 1
    assert (bus.bus_sent, bus.bus_settled) == (1, bus.bus_received)
    assert 1 <= bus.bus_received < 2
