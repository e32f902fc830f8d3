"""The offline model: a deterministic, rule-based stand-in that really calls tools and really uses their results."""

from __future__ import annotations

from emulators.foundry.offline.model import OfflineModel

__all__ = ["OfflineModel"]
