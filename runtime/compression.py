"""gzip for answers that are worth it and may be.

Compressed length tells of content: who can make a browser send requests, and measure answers that hold both a secret
and the sender's own text, can guess the secret (the attack BREACH). So nothing sensitive is compressed: no route that
is declared so, no problem document, nothing that sets a cookie or forbids storing.
"""

from __future__ import annotations

import asyncio
import gzip
import re

from runtime.encoding import Answer
from runtime.problems import PROBLEM_MEDIA_TYPE

MIN_BYTES = 1024
THREAD_FROM_BYTES = 65_536
LEVEL = 5

_TEXTUAL = re.compile(r"text/(?!event-stream)[\w.+-]+|application/([\w.-]+\+)?(json|xml)|application/javascript")


async def compressed(answer: Answer, accept_encoding: str) -> Answer:
    """The answer, compressed if the client takes that and it is safe and worthwhile."""
    headers = answer.headers
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if (
        answer.stream is not None
        or len(answer.body) < MIN_BYTES
        or media_type == PROBLEM_MEDIA_TYPE
        or not _TEXTUAL.fullmatch(media_type)
        or "content-encoding" in headers
        or "content-range" in headers  # counts in bytes of what is sent (RFC 9110 section 14.4)
        or "set-cookie" in headers
        or "no-store" in headers.get("cache-control", "").lower()
    ):
        return answer
    headers["vary"] = f"{headers['vary']}, Accept-Encoding" if "vary" in headers else "Accept-Encoding"
    if not accepts_gzip(accept_encoding):
        return answer
    large = len(answer.body) >= THREAD_FROM_BYTES
    body = await asyncio.to_thread(_gzip, answer.body) if large else _gzip(answer.body)
    if "etag" in headers and not headers["etag"].startswith("W/"):
        headers["etag"] = f"W/{headers['etag']}"  # other bytes, same meaning (RFC 9110 section 8.8.1)
    # The handler's own length is that of the text.
    others = {name: value for name, value in headers.items() if name != "content-length"}
    return Answer(answer.status, {**others, "content-encoding": "gzip"}, body)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a value of `Accept-Encoding` takes gzip (RFC 9110 section 12.5.3)."""
    weights: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        coding, *parameters = (part.strip() for part in item.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            weights[coding] = float(quality)
        except ValueError:
            weights[coding] = 0.0
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, LEVEL, mtime=0)
