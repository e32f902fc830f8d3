"""Storage: what AOS keeps, and `UnifiedStorageManager` for applications."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aos.storage.manager import UnifiedStorageManager as UnifiedStorageManager

__all__ = ["UnifiedStorageManager"]


def __getattr__(name: str) -> object:
    # Lazy: importing one room of the house must not import the storage SDKs.
    if name == "UnifiedStorageManager":
        from aos.storage.manager import UnifiedStorageManager

        return UnifiedStorageManager
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
