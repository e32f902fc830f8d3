from __future__ import annotations

import pytest

from aos.errors import StorageUnavailable
from aos.storage.account import StorageAccount
from aos.storage.payloads import CONTAINER, PayloadGone, Payloads


@pytest.fixture
def payloads(account: StorageAccount) -> Payloads:
    return Payloads(account)


@pytest.mark.parametrize("data", [b"", b"x", b"\x00\xff" * 600_000])
async def test_a_value_comes_back(payloads: Payloads, data: bytes) -> None:
    ref = await payloads.put(data, "tests")
    assert (ref.container, ref.size) == (CONTAINER, len(data))
    assert ref.name.startswith("tests/")
    assert await payloads.get(ref, limit=len(data)) == data


async def test_two_values_never_share_a_name(payloads: Payloads) -> None:
    first, second = await payloads.put(b"one", "tests"), await payloads.put(b"one", "tests")
    assert first.name != second.name


async def test_another_value_under_the_name_is_found_out(payloads: Payloads, account: StorageAccount) -> None:
    ref = await payloads.put(b"one", "tests")
    container = await account.container(CONTAINER)
    for forged in (b"two", b"one and more", b""):
        await container.upload_blob(ref.name, forged, overwrite=True)
        with pytest.raises(PayloadGone, match="hash"):
            await payloads.get(ref, limit=100)


async def test_a_removed_value_is_gone(payloads: Payloads, account: StorageAccount) -> None:
    ref = await payloads.put(b"one", "tests")
    await (await account.container(CONTAINER)).delete_blob(ref.name)
    with pytest.raises(PayloadGone, match="removed") as caught:
        await payloads.get(ref, limit=100)
    assert caught.value.code == "payload_gone"


async def test_a_value_that_is_too_large_is_not_read(payloads: Payloads) -> None:
    ref = await payloads.put(b"x" * 101, "tests")
    with pytest.raises(PayloadGone, match="101 bytes") as caught:
        await payloads.get(ref, limit=100)
    assert caught.value.code == "too_large"


async def test_a_reference_into_another_container_is_refused(payloads: Payloads) -> None:
    ref = await payloads.put(b"one", "tests")
    with pytest.raises(PayloadGone, match="agent-configs"):
        await payloads.get(ref.model_copy(update={"container": "agent-configs"}), limit=100)


@pytest.mark.parametrize("name", ["../agent-configs/x", "tests/../../x", "/x", "a//b", "tests/.hidden", "", "a b"])
async def test_a_name_that_could_lead_elsewhere_is_refused(payloads: Payloads, name: str) -> None:
    ref = await payloads.put(b"one", "tests")
    with pytest.raises(PayloadGone, match="no name of a value"):
        await payloads.get(ref.model_copy(update={"name": name}), limit=100)


async def test_storage_that_is_down_is_unavailable(payloads: Payloads, dead_account: StorageAccount) -> None:
    ref = await payloads.put(b"one", "tests")
    with pytest.raises(StorageUnavailable):
        await Payloads(dead_account).get(ref, limit=100)
