from __future__ import annotations

import json

import pytest

from aos.errors import AosError
from aos.messaging.claim_check import INLINE, LARGEST, ClaimCheck
from aos.messaging.envelopes import EnvelopeInvalid
from aos.storage.payloads import PayloadGone

NO_STORAGE = ClaimCheck(None)
LONG = b"[" + b"1," * INLINE + b"1]"


@pytest.mark.parametrize("body", [b"", b"{}", b'"$blob"', b'{"blob": 1}', b"\xff\x00", b"x" * INLINE])
async def test_what_fits_travels_as_it_is(claim_check: ClaimCheck, body: bytes) -> None:
    assert await claim_check.pack(body, "messages") is body
    assert await claim_check.unpack(body) is body
    assert await NO_STORAGE.pack(body, "messages") is body


async def test_what_is_long_travels_by_reference(claim_check: ClaimCheck) -> None:
    packed = await claim_check.pack(LONG, "messages")
    reference = json.loads(packed)
    assert len(packed) < 1000
    assert set(reference) == {"$blob"}
    assert set(reference["$blob"]) == {"container", "name", "sha256", "size"}
    assert (reference["$blob"]["container"], reference["$blob"]["size"]) == ("aos-payloads", len(LONG))
    assert await claim_check.unpack(packed) == LONG
    assert await claim_check.unpack(json.dumps(reference, indent=2).encode()) == LONG, "however others write it"


async def test_without_storage(claim_check: ClaimCheck) -> None:
    with pytest.raises(EnvelopeInvalid, match=str(len(LONG))) as refused:
        await NO_STORAGE.pack(LONG, "messages")
    assert refused.value.code == "too_large"
    packed = await claim_check.pack(LONG, "messages")
    with pytest.raises(EnvelopeInvalid, match="no storage account"):
        await NO_STORAGE.unpack(packed)


GOOD = {"container": "aos-payloads", "name": "messages/none", "sha256": "0" * 64, "size": 3}


@pytest.mark.parametrize(
    ("reference", "kind", "said"),
    [
        (None, EnvelopeInvalid, r"/\$blob"),
        ("name", EnvelopeInvalid, r"/\$blob"),
        ({}, EnvelopeInvalid, r"/\$blob/container"),
        ({**GOOD, "size": "many"}, EnvelopeInvalid, r"/\$blob/size"),
        ({**GOOD, "size": -2}, EnvelopeInvalid, r"/\$blob/size"),
        ({**GOOD, "container": "agent-configs"}, PayloadGone, "agent-configs"),
        ({**GOOD, "size": LARGEST + 1}, PayloadGone, str(LARGEST)),
        (GOOD, PayloadGone, "messages/none"),
        ({**GOOD, "name": "../agent-configs/agent_registry.json"}, EnvelopeInvalid, r"/\$blob/name"),
        ({**GOOD, "name": "messages/../../agent-configs/agent_registry.json"}, EnvelopeInvalid, r"/\$blob/name"),
        ({**GOOD, "name": "messages/x?comp=list"}, EnvelopeInvalid, r"/\$blob/name"),
        ({**GOOD, "name": ""}, EnvelopeInvalid, r"/\$blob/name"),
    ],
)
async def test_a_foreign_reference_reaches_nothing(
    claim_check: ClaimCheck, reference: object, kind: type[AosError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        await claim_check.unpack(json.dumps({"$blob": reference}).encode())


async def test_a_reference_that_cannot_be_read_is_invalid(claim_check: ClaimCheck) -> None:
    for body in (b'{"$blob": ' + b"[" * 4000, b'{"$blob": {"container": "\xff"}}', b'{"$blob":'):
        with pytest.raises(EnvelopeInvalid):
            await claim_check.unpack(body)


async def test_a_changed_value_is_not_taken_for_the_one_that_was_sent(claim_check: ClaimCheck) -> None:
    reference = json.loads(await claim_check.pack(LONG, "messages"))
    reference["$blob"]["sha256"] = "0" * 64
    with pytest.raises(PayloadGone, match="hash differs"):
        await claim_check.unpack(json.dumps(reference).encode())
