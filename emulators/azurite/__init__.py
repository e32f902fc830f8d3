"""Azurite, Microsoft's storage emulator (blob, queue and table), installed on first use and run as a child process."""

from emulators.azurite.install import VERSION, install
from emulators.azurite.server import ACCOUNT_KEY, ACCOUNT_NAME, Azurite

__all__ = ["ACCOUNT_KEY", "ACCOUNT_NAME", "VERSION", "Azurite", "install"]
