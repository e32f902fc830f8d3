"""Values of any size in a table row: short ones inside it, long ones in a blob that the row names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aos.storage.payloads import BlobRef, Payloads

INLINE = 24 * 1024
"""Bytes of JSON kept in a row; a string property holds at most 32 Ki characters."""
LARGEST = 64 * 1024 * 1024


class RowValues:
    """Writes a value into the column `data`, or into a blob that the column `blob` names."""

    def __init__(self, payloads: Payloads) -> None:
        self._payloads = payloads

    async def columns(self, data: bytes, prefix: str) -> dict[str, str]:
        """The columns that hold a value.

        Args:
            data: UTF-8 text.
            prefix: Beginning of the blob's name, should it need one.
        """
        if len(data) <= INLINE:
            return {"data": data.decode()}
        ref = await self._payloads.put(data, prefix)
        return {"blob": ref.model_dump_json()}

    async def read(self, row: Mapping[str, Any]) -> bytes:
        """The value of a row.

        Raises:
            PayloadGone: The blob is not there any more.
        """
        if "blob" in row:
            return await self._payloads.get(BlobRef.model_validate_json(row["blob"]), limit=LARGEST)
        return str(row["data"]).encode()
