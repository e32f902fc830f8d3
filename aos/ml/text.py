"""Text that can be stored and sent."""

from __future__ import annotations


def whole_characters(text: str) -> str:
    """The text with `?` for halves of characters: JSON may hold them, but UTF-8 cannot."""
    return text if text.isascii() else text.encode(errors="replace").decode()
