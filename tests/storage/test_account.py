from __future__ import annotations

import asyncio
import uuid

import pytest

from aos.config import STORAGE, Settings, load_settings
from aos.errors import SettingError, StorageUnavailable
from aos.storage.account import StorageAccount


@pytest.mark.parametrize("connection", ["nonsense", "AccountName=devstoreaccount1", "AccountKey=abc=", "a=b;c"])
async def test_a_bad_connection_string_names_the_setting(connection: str) -> None:
    account = StorageAccount(load_settings({STORAGE: connection}))
    with pytest.raises(SettingError, match=STORAGE):
        await account.table("aostests")
    with pytest.raises(SettingError, match=STORAGE):
        await account.container("aos-tests")
    await account.close()


async def test_an_account_name_needs_an_identity() -> None:
    account = StorageAccount(load_settings({f"{STORAGE}__accountName": "mine"}))
    with pytest.raises(SettingError, match="identity"):
        await account.table("aostests")
    await account.close()


async def test_a_wrong_key_says_what_to_look_at(storage_settings: Settings) -> None:
    assert storage_settings.storage is not None
    parts = dict(part.split("=", 1) for part in storage_settings.storage.rstrip(";").split(";"))
    connection = ";".join(f"{name}={value}" for name, value in {**parts, "AccountKey": "d3Jvbmc="}.items())
    account = StorageAccount(load_settings({STORAGE: connection}))
    with pytest.raises(StorageUnavailable, match="role"):
        await account.table("aostests")
    await account.close()


async def test_tables_and_containers_are_made_once_however_many_ask(storage_settings: Settings) -> None:
    account, name = StorageAccount(storage_settings), uuid.uuid4().hex
    tables = await asyncio.gather(*(account.table(f"t{name}") for _ in range(10)))
    containers = await asyncio.gather(*(account.container(f"c-{name}") for _ in range(10)))
    assert len({id(table) for table in tables}) == len({id(container) for container in containers}) == 1
    other = StorageAccount(storage_settings)
    await (await other.table(f"t{name}")).create_entity({"PartitionKey": "p", "RowKey": "r"})
    await (await other.container(f"c-{name}")).upload_blob("b", b"x")
    await other.close()
    await account.close()


async def test_a_container_that_is_not_ours_is_not_made(account: StorageAccount) -> None:
    container = await account.container(f"c-{uuid.uuid4().hex}", create=False)
    assert not await container.exists()


async def test_a_closed_account_can_be_used_again(storage_settings: Settings) -> None:
    account = StorageAccount(storage_settings)
    await account.table("aostests")
    await account.close()
    await (await account.table("aostests")).upsert_entity({"PartitionKey": "p", "RowKey": "r"})
    await account.close()


async def test_an_account_that_does_not_answer_is_unavailable(dead_account: StorageAccount) -> None:
    with pytest.raises(StorageUnavailable, match="table aostests"):
        await dead_account.table("aostests")
    with pytest.raises(StorageUnavailable, match="container aos-tests"):
        await dead_account.container("aos-tests")


@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:9"])
async def test_a_proxy_of_the_environment_is_used(
    storage_settings: Settings, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    if proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
    account = StorageAccount(storage_settings)
    problems = await account.check()
    await account.close()
    assert set(problems) == ({"tables", "blobs", "queues"} if proxy else set())


async def test_the_three_services_are_asked_at_once() -> None:
    everybody = asyncio.Barrier(3)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await everybody.wait()
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a"
        kinds = ";".join(f"{kind}Endpoint={address}" for kind in ("Blob", "Queue", "Table"))
        account = StorageAccount(load_settings({STORAGE: f"AccountName=a;AccountKey=a2V5;{kinds}"}))
        problems = await asyncio.wait_for(account.check(), 20)
        await account.close()
    assert list(problems) == ["tables", "blobs", "queues"]
    assert all("HTTP 403" in problem for problem in problems.values())
