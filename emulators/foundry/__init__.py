"""An emulator of the Microsoft Foundry Agent Service for the unmodified SDKs."""

from __future__ import annotations

from emulators.foundry.server import FoundryEmulator

__all__ = ["FoundryEmulator"]
