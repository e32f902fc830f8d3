"""Bodies too large for a message travel as a reference to a blob: `{"$blob": {container, name, sha256, size}}`."""

from __future__ import annotations

import re

from pydantic import BaseModel, Field

from aos.messaging.envelopes import EnvelopeInvalid, parse_body
from aos.storage.payloads import NAME, BlobRef, Payloads

INLINE = 192 * 1024
"""Bytes of a body that travel in the message; the Standard tier takes 256 KB with headers and properties."""
LARGEST = 32 * 1024 * 1024
"""Bytes of a body that AOS reads from a blob."""
_REFERENCE = re.compile(rb'\s*\{\s*"\$blob"\s*:')
_LONGEST_REFERENCE = 4096


class _Reference(BaseModel):
    blob: BlobRef = Field(alias="$blob")


class ClaimCheck:
    """Packs and unpacks bodies. Without storage only what fits a message can be sent."""

    def __init__(self, payloads: Payloads | None) -> None:
        self._payloads = payloads

    async def pack(self, body: bytes, prefix: str) -> bytes:
        """The body itself, or a reference to it if it is long.

        Raises:
            EnvelopeInvalid: It is long and there is no storage account for it (code `too_large`).
        """
        if len(body) <= INLINE:
            return body
        if self._payloads is None:
            raise EnvelopeInvalid(
                f"The body has {len(body)} bytes; over {INLINE} needs a storage account to travel through.",
                code="too_large",
            )
        ref = await self._payloads.put(body, prefix)
        return _Reference.model_validate({"$blob": ref}).model_dump_json(by_alias=True).encode()

    async def unpack(self, body: bytes) -> bytes:
        """The body that a message stands for.

        Raises:
            EnvelopeInvalid: It is no reference, or there is no storage account to read it from.
            PayloadGone: What it refers to cannot be had.
        """
        if len(body) > _LONGEST_REFERENCE or _REFERENCE.match(body) is None:
            return body
        ref = parse_body(_Reference, body).blob
        if ref.size < 0:
            raise EnvelopeInvalid("/$blob/size: is negative")
        if NAME.fullmatch(ref.name) is None:
            raise EnvelopeInvalid(f"/$blob/name: {ref.name[:200]!r} is not letters, digits, and ._- between slashes")
        if self._payloads is None:
            raise EnvelopeInvalid("/$blob: this app has no storage account to read it from.")
        return await self._payloads.get(ref, limit=LARGEST)
