"""What the model is told of a tool's answer.

Always one JSON object: `result` or `error` holds what the tool said, so that no text of a tool can pass for something
else; `attachments` name what is not text, `notice` what was cut. Pictures, sounds and binary resources go to blobs, and
so does the whole of an answer that is too long.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from aos.kernel.types import ToolResult
from aos.messaging.envelopes import ToolResponse
from aos.storage.payloads import Payloads

LONGEST_OUTPUT = 200_000
"""Characters of a tool's answer that reach the model; the service takes about 1.5 million for a whole message."""
MOST_ATTACHMENTS = 32
LONGEST_FIELD = 2048
PREFIX = "tool-results"


class ToolResults:
    """Turns answers into what the model is told.

    Args:
        payloads: Keeps what the model is not shown, for 7 days; None: it is dropped, and the model told so.
    """

    def __init__(self, payloads: Payloads | None) -> None:
        self._payloads = payloads

    async def told(self, response: ToolResponse) -> ToolResult:
        """The result of a call.

        Raises:
            StorageUnavailable: Something that has to be kept could not be.
        """
        body = response.response
        if body.error is not None:
            output = await self._framed("error", f"{body.error.code}: {body.error.message}", [])
            return ToolResult(response.request_id, output, failed=True)
        result = body.result or {}
        failed = bool(result.get("isError"))
        content = result.get("content")
        parts = [part for part in (content if isinstance(content, list) else []) if isinstance(part, dict)]
        structured = result.get("structuredContent")
        # Structured content is also there as text, for clients that do not know it.
        said = structured if isinstance(structured, dict) else "\n".join(filter(None, map(_text, parts)))
        output = await self._framed("error" if failed else "result", said, [p for p in parts if _text(p) is None])
        return ToolResult(response.request_id, output, failed=failed)

    async def _framed(self, key: str, said: str | dict[str, Any], others: list[dict[str, Any]]) -> str:
        frame: dict[str, Any] = {}
        if others:
            frame["attachments"] = [await self._attachment(part) for part in others[:MOST_ATTACHMENTS]]
        if len(others) > MOST_ATTACHMENTS:
            frame["notice"] = f"{len(others) - MOST_ATTACHMENTS} more attachments are not listed."
        text = said if isinstance(said, str) else _json(said)
        if len(text) > LONGEST_OUTPUT:
            where = await self._kept(text.encode("utf-8", "replace"))
            cut = f"Cut after {LONGEST_OUTPUT} of {len(text)} characters: ask for less at once."
            return _json({**frame, key: text[:LONGEST_OUTPUT], "notice": cut, "whole": where})
        if isinstance(said, dict) and key == "result" and not frame:
            return text
        return _json({key: said, **frame})

    async def _attachment(self, part: dict[str, Any]) -> dict[str, Any]:
        """What is said of content that is not text."""
        kind = str(part.get("type", ""))[:LONGEST_FIELD]
        inner = part.get("resource") if kind == "resource" else part
        inner = inner if isinstance(inner, dict) else {}
        names = {"mimeType": "mime_type", "uri": "uri", "name": "name", "title": "title"}
        said = {"type": kind} | {
            ours: str(inner[theirs])[:LONGEST_FIELD] for theirs, ours in names.items() if inner.get(theirs)
        }
        encoded = inner.get("blob") if kind == "resource" else inner.get("data") if kind in ("image", "audio") else None
        if encoded is None:
            return said
        try:
            data = base64.b64decode(str(encoded), validate=True)
        except (binascii.Error, ValueError):
            return said | {"blob": "not kept: it is not valid base64"}
        return said | {"size": len(data), "blob": await self._kept(data)}

    async def _kept(self, data: bytes) -> str:
        if self._payloads is None:
            return "not kept: there is no storage account"
        ref = await self._payloads.put(data, PREFIX)
        return f"{ref.container}/{ref.name}"


def _text(part: dict[str, Any]) -> str | None:
    """The text of a part of the content; None if it is something else."""
    if part.get("type") == "text":
        return str(part.get("text", ""))
    resource = part.get("resource")
    if part.get("type") == "resource" and isinstance(resource, dict) and isinstance(resource.get("text"), str):
        return str(resource["text"])
    return None


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
