"""What comes out of an output queue, read into a reply or refused with the reason."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from aos.errors import AosError
from aos.messaging.envelopes import ToolError, ToolResponse, ToolResponseBody
from aos.registry.azure_functions import CORRELATION


class ReplyInvalid(AosError):
    """The message answers no call; `code` says in a word what is wrong with it."""

    code = "FunctionReplyInvalid"
    title = "The message is no reply of a function."


class FunctionReply(BaseModel):
    """`{"Value": ..., "CorrelationId": "..."}`; more fields are let be."""

    model_config = ConfigDict(extra="ignore")

    value: JsonValue = Field(alias="Value")
    correlation_id: str = Field(alias=CORRELATION, min_length=1, max_length=256)


def read_reply(body: Any) -> FunctionReply:
    """A reply from the body of a message, decoded from JSON as far as it was any.

    Raises:
        ReplyInvalid: With the code `NoCorrelationId` if only that is missing.
    """
    if not isinstance(body, dict):
        raise ReplyInvalid(f'A reply is a JSON object {{"Value", "{CORRELATION}"}}; this is something else.')
    if not body.get(CORRELATION):
        raise ReplyInvalid(
            f"The reply has no {CORRELATION}: a function gives back that of its call.", code="NoCorrelationId"
        )
    try:
        return FunctionReply.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ReplyInvalid(f"/{'/'.join(map(str, first['loc']))}: {first['msg']}") from None


def correlation_of(body: Any) -> str | None:
    """The call that a message belongs to, whatever else stands in it."""
    found = body.get(CORRELATION) if isinstance(body, dict) else None
    return found if isinstance(found, str) and found else None


def answered(reply: FunctionReply) -> ToolResponse:
    """The reply in the form in which results of tools are told to models."""
    value = reply.value
    if isinstance(value, dict):
        result: dict[str, Any] = {"structuredContent": value}
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        result = {"content": [{"type": "text", "text": text}]}
    return ToolResponse(request_id=reply.correlation_id, response=ToolResponseBody(result=result))


def failed(request_id: str, detail: str) -> ToolResponse:
    """The answer to a call on which the function gave up."""
    error = ToolError(code="unavailable", message=detail)
    return ToolResponse(request_id=request_id, response=ToolResponseBody(error=error))
