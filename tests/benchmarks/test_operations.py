"""What a turn costs in requests is part of what AOS promises (docs/scale.md): these are ceilings."""

from __future__ import annotations

import pytest

from benchmarks.operations import PerTurn, operations

ROUNDS = 3
"""Who waits for a slow turn looks more often, and what goes by the clock falls into a round by chance; what a turn asks
for by itself is in each."""


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_turn_asks_no_more_of_its_neighbours_than_documented() -> None:
    for _ in range(ROUNDS):
        found = await operations(turns=4)
        wrong = not_as_documented(found["http"], found["http, one tool"], found["bus"])
        if not wrong:
            break
    assert wrong == [], found


def not_as_documented(http: PerTurn, tool: PerTurn, bus: PerTurn) -> list[str]:
    promises = {
        "table requests": 5 <= http.table_requests <= 12,
        "Foundry requests": http.foundry_requests == 1,
        "nothing else": http.bus_sent == http.bus_received == http.blob_requests == 0,
        "table requests with a tool": http.table_requests < tool.table_requests <= 19,
        "Foundry requests with a tool": tool.foundry_requests == 2,
        # What arrives in the moment in which a receive ends is handed back, and comes again.
        "messages with a tool": (tool.bus_sent, tool.bus_settled) == (2, tool.bus_received),
        "messages received with a tool": 2 <= tool.bus_received < 3,
        "table requests over the bus": 5 <= bus.table_requests <= 12,
        "Foundry requests over the bus": bus.foundry_requests == 1,
        "messages over the bus": (bus.bus_sent, bus.bus_settled) == (1, bus.bus_received),
        "messages received over the bus": 1 <= bus.bus_received < 2,
    }
    return [what for what, kept in promises.items() if not kept]
