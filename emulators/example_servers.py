"""The example MCP server over HTTP as a part of the stack: apps reach it by an address and do not start it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from emulators.parts import PACKAGE_ROOT, Emulator
from emulators.seed import read_registry

CALENDAR_URL = "BUSINESS_CALENDAR_URL"
"""Setting with its address, to which its entry in the registry refers."""
CALENDAR_MODULE = "examples.business_calendar"


def uses_calendar(registry: Path) -> bool:
    """Whether a registry of MCP servers refers to the business calendar, and the example is there to be run."""
    content = read_registry(registry) or b""
    present = PACKAGE_ROOT.joinpath(*CALENDAR_MODULE.split(".")).is_dir()
    return present and f"${{{CALENDAR_URL}}}".encode() in content


def business_calendar(port: int, state_dir: Path, held: Iterable[int] = ()) -> Emulator:
    """The business calendar; its address is that of its MCP endpoint."""
    return Emulator(
        "business calendar",
        CALENDAR_MODULE,
        setting="AOS_CALENDAR_PORT",
        port=port,
        address=r"http://[\w.:-]+/mcp",
        database=None,
        logs=state_dir / "logs",
        held=held,
    )
