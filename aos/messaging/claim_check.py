"""Bodies too large for a message travel as a reference to a blob: `{"$blob": {container, name, sha256, size}}`."""

from __future__ import annotations

import json

from pydantic import ValidationError

from aos.messaging.envelopes import EnvelopeInvalid
from aos.storage.payloads import BlobRef, Payloads

INLINE = 192 * 1024
"""Bytes of a body that travel in the message; the Standard tier takes 256 KB with headers and properties."""
LARGEST = 32 * 1024 * 1024
"""Bytes of a body that AOS reads from a blob."""


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
        return json.dumps({"$blob": ref.model_dump()}).encode()

    async def unpack(self, body: bytes) -> bytes:
        """The body that a message stands for."""
        if not body.startswith(b'{"$blob"') or len(body) > 4096:
            return body
        try:
            ref = BlobRef.model_validate(json.loads(body)["$blob"])
        except (ValueError, ValidationError):
            raise EnvelopeInvalid("/$blob: not a reference {container, name, sha256, size}") from None
        if self._payloads is None:
            raise EnvelopeInvalid("/$blob: this app has no storage account to read it from.")
        return await self._payloads.get(ref, limit=LARGEST)
