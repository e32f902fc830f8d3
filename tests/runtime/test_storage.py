from __future__ import annotations

import uuid

import pytest

from emulators.azurite import Azurite
from runtime import CircuitOpen, Outgoing, RuntimeConfig, RuntimeConfigError, open_storage, storage


@pytest.mark.parametrize("kind", ["blob", "memory"])
async def test_documents_are_kept_by_name(azurite: Azurite, kind: str) -> None:
    config = RuntimeConfig.from_dict({"storage_type": kind})
    settings = {"SHOP": azurite.connection_string}
    async with open_storage(config, settings, container=f"c{uuid.uuid4().hex}", connection="SHOP") as documents:
        assert await documents.get("orders/1") is None
        await documents.put("orders/1", b"tea")
        await documents.put("orders/1", b"more tea")
        await documents.put("bills/1", b"")
        assert await documents.get("orders/1") == b"more tea"
        assert (await documents.names("orders/"), await documents.names()) == (["orders/1"], ["bills/1", "orders/1"])
        assert (await documents.delete("orders/1"), await documents.delete("orders/1")) == (True, False)


async def test_the_switches_hold_and_limits_are_kept(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MAX_DOCUMENT_BYTES", 3)
    config = RuntimeConfig(max_retries=1)
    outgoing, name = Outgoing(config), f"c{uuid.uuid4().hex}"
    settings = {"AzureWebJobsStorage": azurite.connection_string}
    for _ in range(2):  # the second time the container is there already
        async with open_storage(config, settings, container=name, outgoing=outgoing) as documents:
            with pytest.raises(ValueError, match="'long' is longer than 3 bytes"):
                await documents.put("long", b"1234")
    gone = "AccountName=a;AccountKey=YQ==;BlobEndpoint=http://127.0.0.1:1/a"
    for _ in range(3):
        with pytest.raises(Exception, match=r"Cannot connect|left alone"):
            async with open_storage(config, {"AzureWebJobsStorage": gone}, container=name, outgoing=outgoing):
                raise AssertionError
    with pytest.raises(CircuitOpen):
        async with open_storage(config, {"AzureWebJobsStorage": gone}, container=name, outgoing=outgoing):
            raise AssertionError


async def test_a_missing_setting_is_named() -> None:
    with pytest.raises(RuntimeConfigError, match="SHOP: is not set"):
        async with open_storage(RuntimeConfig(), {}, container="c", connection="SHOP"):
            raise AssertionError
