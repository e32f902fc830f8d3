from __future__ import annotations

import gzip

import pytest

from runtime.compression import MIN_BYTES, THREAD_FROM_BYTES, accepts_gzip, compressed
from runtime.encoding import Answer


@pytest.mark.parametrize("size", [MIN_BYTES, THREAD_FROM_BYTES])
async def test_long_text_is_compressed(size: int) -> None:
    answer = Answer(200, {"content-type": "application/json", "etag": '"1"', "vary": "Origin"}, b"x" * size)
    sent = await compressed(answer, "br, gzip")
    assert gzip.decompress(sent.body) == answer.body
    assert (sent.headers["content-encoding"], sent.headers["etag"]) == ("gzip", 'W/"1"')
    assert sent.headers["vary"] == "Origin, Accept-Encoding"


async def test_a_length_that_the_handler_gave_is_not_sent_with_the_shorter_body() -> None:
    answer = Answer(200, {"content-type": "text/plain", "content-length": "9000"}, b"x" * 9000)
    assert "content-length" not in (await compressed(answer, "gzip")).headers
    assert (await compressed(answer, "")).headers["content-length"] == "9000"


@pytest.mark.parametrize(
    ("headers", "size"),
    [
        ({"content-type": "application/json"}, MIN_BYTES - 1),
        ({"content-type": "application/problem+json"}, 9000),
        ({"content-type": "text/event-stream"}, 9000),
        ({"content-type": "image/png"}, 9000),
        ({"content-type": "text/plain", "set-cookie": "session=1"}, 9000),
        ({"content-type": "text/plain", "cache-control": "no-store"}, 9000),
        ({"content-type": "text/plain", "cache-control": "private, No-Store"}, 9000),
        ({"content-type": "text/plain", "content-encoding": "br"}, 9000),
        ({"content-type": "text/plain", "content-range": "bytes 0-8999/18000"}, 9000),
        ({}, 9000),
    ],
)
async def test_what_is_short_secret_or_compressed_stays_as_it_is(headers: dict[str, str], size: int) -> None:
    answer = Answer(200, dict(headers), b"x" * size)
    sent = await compressed(answer, "gzip")
    assert (sent.body, sent.headers) == (answer.body, headers)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("gzip", True),
        ("br;q=1, GZIP;q=0.1", True),
        ("*", True),
        ("x-gzip", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("*;q=1, gzip;q=0", False),
        ("gzip;q=high", False),
    ],
)
def test_accept_encoding(value: str, accepted: bool) -> None:
    assert accepts_gzip(value) is accepted
