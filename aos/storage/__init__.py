"""Storage: what AOS keeps, and `UnifiedStorageManager` for applications."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aos.lazy import lazy

if TYPE_CHECKING:
    from aos.storage.manager import UnifiedStorageManager

__all__ = ["UnifiedStorageManager"]

# Importing one room of the house must not import the storage SDKs.
__getattr__, __dir__ = lazy(__name__, {"UnifiedStorageManager": "aos.storage.manager"})
