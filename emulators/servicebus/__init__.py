"""An emulator of Azure Service Bus for development and tests: AMQP 1.0, spoken to by the unmodified Azure SDKs."""

from __future__ import annotations

from emulators.servicebus.config import ConfigError, load_entities
from emulators.servicebus.server import ServiceBusEmulator
from emulators.servicebus.store import StoreError

__all__ = ["ConfigError", "ServiceBusEmulator", "StoreError", "load_entities"]
