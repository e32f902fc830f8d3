"""`UnifiedStorageManager` on a real account (Azurite)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from azure.data.tables import EntityProperty
from yarl import URL

from aos.config import STORAGE, Settings, load_settings
from aos.errors import Conflict, SettingError, StorageUnavailable
from aos.storage import UnifiedStorageManager
from aos.storage.account import StorageAccount
from aos.storage.blobs import BlobNotFound, BlobNotJson, BlobTooLarge
from aos.storage.entities import EntityInvalid, QueryInvalid
from aos.storage.manager import VALUES_CONTAINER, StorageNames
from aos.storage.names import StorageNameInvalid
from aos.storage.paging import BadContinuation
from aos.storage.payloads import Payloads
from aos.storage.queues import MessageGone, QueueMessage

LONG = "ä€" * 20_000


@pytest.fixture
def names() -> StorageNames:
    mark = uuid.uuid4().hex
    return StorageNames(f"c{mark}", f"events-{mark}", f"requests-{mark}")


@pytest.fixture
async def storage(storage_settings: Settings, names: StorageNames) -> AsyncIterator[UnifiedStorageManager]:
    async with UnifiedStorageManager(storage_settings, names=names) as storage:
        yield storage


@pytest.fixture
def table() -> str:
    return f"t{uuid.uuid4().hex}"


@pytest.fixture
def container() -> str:
    return f"c-{uuid.uuid4().hex}"


@pytest.fixture
def queue() -> str:
    return f"q-{uuid.uuid4().hex}"


async def _values(account: StorageAccount, table: str) -> int:
    values = await account.container(VALUES_CONTAINER)
    return len([blob async for blob in values.list_blobs(name_starts_with=f"entities/{table}/")])


class TestConversations:
    async def test_one_is_made_found_and_changed(self, storage: UnifiedStorageManager) -> None:
        made = await storage.create_conversation("board/7 ä", domain="finance", data={"topic": "Q3", "n": [1, 2]})
        found = await storage.get_conversation("board/7 ä")
        assert found == made
        assert found is not None
        assert found.data == {"topic": "Q3", "n": [1, 2]}
        changed = await storage.upsert_conversation("board/7 ä", data={"topic": "Q4"})
        assert (changed.domain, changed.data, changed.created_at) == ("finance", {"topic": "Q4"}, made.created_at)
        assert await storage.get_conversation("another") is None

    async def test_it_is_made_once(self, storage: UnifiedStorageManager) -> None:
        await storage.create_conversation("one")
        with pytest.raises(Conflict):
            await storage.create_conversation("one")

    async def test_an_older_state_is_not_written_over_a_newer_one(self, storage: UnifiedStorageManager) -> None:
        first = await storage.create_conversation("one")
        await storage.upsert_conversation("one", domain="a", etag=first.etag)
        with pytest.raises(Conflict):
            await storage.upsert_conversation("one", domain="b", etag=first.etag)
        found = await storage.get_conversation("one")
        assert found is not None
        assert found.domain == "a"

    async def test_of_many_writers_none_loses_what_another_wrote(self, storage: UnifiedStorageManager) -> None:
        await asyncio.gather(
            *(storage.upsert_conversation("shared", domain="d") for _ in range(4)),
            *(storage.upsert_conversation("shared", data={"kept": True}) for _ in range(4)),
        )
        found = await storage.get_conversation("shared")
        assert found is not None
        assert (found.domain, found.data) == ("d", {"kept": True})

    async def test_messages_come_in_order_and_in_pages(self, storage: UnifiedStorageManager) -> None:
        for number in range(5):
            await storage.add_message("talk", "user", f"message {number}", data={"n": number})
        await storage.add_message("talk", "assistant", LONG)
        first = await storage.query_messages("talk", limit=4)
        rest = await storage.query_messages("talk", limit=4, next=first.next)
        assert [message.content for message in (*first.items, *rest.items)] == [
            *(f"message {number}" for number in range(5)),
            LONG,
        ]
        assert rest.next is None
        assert first.items[3].data == {"n": 3}
        since = await storage.query_messages("talk", since=first.items[3].at)
        assert [message.data.get("n") for message in since.items] == [3, 4, None]
        assert not (await storage.query_messages("another")).items

    async def test_the_same_message_again_adds_nothing(self, storage: UnifiedStorageManager) -> None:
        first, *others = await asyncio.gather(
            *(storage.add_message("talk", "user", "hello", message_id="m/1") for _ in range(5))
        )
        assert all(other == first for other in others)
        assert await storage.add_message("talk", "user", "something else", message_id="m/1") == first
        assert list((await storage.query_messages("talk")).items) == [first]


class TestEntities:
    async def test_every_kind_of_value_comes_back(self, storage: UnifiedStorageManager, table: str) -> None:
        entity = {
            "PartitionKey": "p",
            "RowKey": "r",
            "text": "ä",
            "empty": "",
            "number": 7,
            "ratio": 0.5,
            "flag": True,
            "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "raw": b"\x00\xff",
            "list": [1, {"a": None}],
            "long_text": LONG,
            "long_bytes": b"\x00\xff" * 20_000,
            "long_list": [LONG],
        }
        etag = await storage.upsert_entity(table, entity)
        found = await storage.get_entity(table, "p", "r")
        assert found == {**entity, "etag": etag}
        assert await storage.get_entity(table, "p", "another") is None

    async def test_numbers_of_more_than_32_bits_come_back_as_they_were(
        self, storage: UnifiedStorageManager, table: str
    ) -> None:
        numbers = {"a": 2**31 - 1, "b": 2**31, "c": -(2**63), "d": 1_800_000_000_000, "e": True}
        await storage.upsert_entity(table, {"PartitionKey": "p", "RowKey": "1", **numbers})
        await storage.upsert_entities(table, [{"PartitionKey": "p", "RowKey": "2", **numbers}])
        found = await storage.query_entities(table, filter="d eq @d", parameters={"d": numbers["d"]})
        assert [{name: entity[name] for name in numbers} for entity in found.items] == [numbers, numbers]

    async def test_long_values_go_with_their_entity(
        self, storage: UnifiedStorageManager, account: StorageAccount, table: str
    ) -> None:
        keys = {"PartitionKey": "p", "RowKey": "r"}
        await storage.upsert_entity(table, {**keys, "a": LONG, "b": LONG})
        assert await _values(account, table) == 2
        await storage.upsert_entity(table, {**keys, "a": "short", "b": LONG})
        assert await _values(account, table) == 1
        assert await storage.delete_entity(table, "p", "r")
        assert await _values(account, table) == 0
        assert not await storage.delete_entity(table, "p", "r")

    async def test_a_refused_write_leaves_no_values(
        self, storage: UnifiedStorageManager, account: StorageAccount, table: str
    ) -> None:
        keys = {"PartitionKey": "p", "RowKey": "r"}
        old = await storage.upsert_entity(table, {**keys, "n": 1})
        await storage.upsert_entity(table, {**keys, "n": 2}, etag=old)
        with pytest.raises(Conflict):
            await storage.upsert_entity(table, {**keys, "n": LONG}, etag=old)
        with pytest.raises(Conflict):
            await storage.delete_entity(table, "p", "r", etag=old)
        assert await _values(account, table) == 0
        found = await storage.get_entity(table, "p", "r")
        assert found is not None
        assert found["n"] == 2

    async def test_writers_at_once_leave_one_whole_entity(
        self, storage: UnifiedStorageManager, account: StorageAccount, table: str
    ) -> None:
        keys = {"PartitionKey": "p", "RowKey": "r"}
        texts = [LONG + str(number) for number in range(6)]
        await asyncio.gather(*(storage.upsert_entity(table, {**keys, "text": text}) for text in texts))
        found = await storage.get_entity(table, "p", "r")
        assert found is not None
        assert found["text"] in texts
        assert await _values(account, table) == 1

    async def test_ten_thousand_are_written_and_paged(self, storage: UnifiedStorageManager, table: str) -> None:
        rows = [
            {"PartitionKey": f"p{number % 4}", "RowKey": f"{number:05d}", "n": number, "text": "x" * 20}
            for number in range(10_000)
        ]
        assert await storage.upsert_entities(table, rows) == 10_000
        seen: list[int] = []
        pages, next = 0, None
        while True:
            page = await storage.query_entities(table, select=["n"], limit=1000, next=next)
            seen += [entity["n"] for entity in page.items]
            assert all("text" not in entity for entity in page.items)
            pages, next = pages + 1, page.next
            if next is None:
                break
        assert sorted(seen) == list(range(10_000))
        assert pages >= 10
        some = await storage.query_entities(
            table, partition="p1", filter="n gt @n or n eq @m", parameters={"n": 9_990, "m": 1}
        )
        assert [entity["n"] for entity in some.items] == [1, 9993, 9997]

    @pytest.mark.parametrize(
        "value",
        ["it's @n", True, -7, 2**40, 0.25, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), uuid.UUID(int=7), b"\x01"],
    )
    async def test_values_of_a_filter_are_never_part_of_its_text(
        self, storage: UnifiedStorageManager, table: str, value: object
    ) -> None:
        given = EntityProperty(value, "Edm.Int64") if value == 2**40 else value
        await storage.upsert_entities(
            table,
            [{"PartitionKey": "p", "RowKey": "1", "v": given}, {"PartitionKey": "p", "RowKey": "2"}],
        )
        found = await storage.query_entities(table, filter="(v eq @v)", parameters={"v": value, "n": "x"})
        assert [entity["RowKey"] for entity in found.items] == ["1"]

    @pytest.mark.parametrize(
        ("entity", "said"),
        [
            ({"RowKey": "r"}, "PartitionKey"),
            ({"PartitionKey": "a/b", "RowKey": "r"}, "PartitionKey"),
            ({"PartitionKey": "p", "RowKey": 7}, "RowKey"),
            ({"PartitionKey": "p", "RowKey": "r", "x": object()}, "x: object cannot"),
            ({"PartitionKey": "p", "RowKey": "r", "x": [object()]}, "x: "),
            ({"PartitionKey": "p", "RowKey": "r", "x": 2**63}, "x: .* 64 bits"),
            ({"PartitionKey": "p", "RowKey": "r", "aos_values": "{}"}, "aos_values"),
            ({"PartitionKey": "p", "RowKey": "r", "not a name": 1}, "not a name"),
        ],
    )
    async def test_what_cannot_be_kept_is_refused(
        self, storage: UnifiedStorageManager, table: str, entity: dict[str, object], said: str
    ) -> None:
        with pytest.raises(EntityInvalid, match=said):
            await storage.upsert_entity(table, entity)

    async def test_a_batch_takes_no_long_value_and_no_key_twice(
        self, storage: UnifiedStorageManager, table: str
    ) -> None:
        keys = {"PartitionKey": "p", "RowKey": "r"}
        with pytest.raises(EntityInvalid, match="x: too large"):
            await storage.upsert_entities(table, [{**keys, "x": LONG}])
        with pytest.raises(EntityInvalid, match="Two entities"):
            await storage.upsert_entities(table, [keys, keys])

    async def test_a_wrong_query_says_so(self, storage: UnifiedStorageManager, table: str) -> None:
        with pytest.raises(QueryInvalid):
            await storage.query_entities(table, filter="this is no filter !")
        with pytest.raises(QueryInvalid, match="@missing"):
            await storage.query_entities(table, filter="n eq @missing")
        for wrong in ("%%%", urlsafe_b64encode(b"[" * 100_000).decode()):
            with pytest.raises(BadContinuation):
                await storage.query_entities(table, next=wrong)
        with pytest.raises(ValueError, match="limit"):
            await storage.query_entities(table, limit=1001)


class TestBlobs:
    async def test_one_is_written_read_listed_and_deleted(self, storage: UnifiedStorageManager, container: str) -> None:
        written = await storage.upload_blob(container, "a/ä.json", '{"x": 1}', content_type="application/json")
        assert await storage.load_json_from_blob(container, "a/ä.json") == {"x": 1}
        assert await storage.download_blob(container, "a/ä.json") == b'{"x": 1}'
        [listed] = (await storage.list_blobs(container, prefix="a/")).items
        assert (listed.name, listed.size, listed.content_type) == (written.name, 8, "application/json")
        assert await storage.delete_blob(container, "a/ä.json")
        assert not await storage.delete_blob(container, "a/ä.json")

    async def test_a_listing_has_pages(self, storage: UnifiedStorageManager, container: str) -> None:
        for number in range(5):
            await storage.upload_blob(container, f"n{number}", b"")
        first = await storage.list_blobs(container, limit=3)
        rest = await storage.list_blobs(container, limit=3, next=first.next)
        assert [blob.name for blob in (*first.items, *rest.items)] == [f"n{number}" for number in range(5)]
        assert rest.next is None
        assert await storage.download_blob(container, "n0") == b""

    async def test_what_is_missing_is_said(self, storage: UnifiedStorageManager, container: str) -> None:
        with pytest.raises(BlobNotFound, match="nowhere"):
            await storage.download_blob(container, "nowhere")
        assert not (await storage.list_blobs(container)).items
        assert not await storage.delete_blob(container, "nowhere")

    async def test_a_state_is_written_over_once(self, storage: UnifiedStorageManager, container: str) -> None:
        first = await storage.upload_blob(container, "b", b"1", overwrite=False)
        with pytest.raises(Conflict):
            await storage.upload_blob(container, "b", b"2", overwrite=False)
        await storage.upload_blob(container, "b", b"3", etag=first.etag)
        with pytest.raises(Conflict):
            await storage.upload_blob(container, "b", b"4", etag=first.etag)
        with pytest.raises(Conflict):
            await storage.delete_blob(container, "b", etag=first.etag)
        assert await storage.download_blob(container, "b") == b"3"

    async def test_bounds_and_broken_json_are_said(self, storage: UnifiedStorageManager, container: str) -> None:
        await storage.upload_blob(container, "b", b'{"x": }')
        with pytest.raises(BlobTooLarge, match="more than 3"):
            await storage.download_blob(container, "b", limit=3)
        with pytest.raises(BlobNotJson, match="line 1 column 7"):
            await storage.load_json_from_blob(container, "b")
        await storage.upload_blob(container, "b", b"[" * 100_000)
        with pytest.raises(BlobNotJson, match="too deeply"):
            await storage.load_json_from_blob(container, "b")


class TestQueues:
    async def test_a_message_is_received_and_deleted(self, storage: UnifiedStorageManager, queue: str) -> None:
        for body in ({"a": [1]}, "plain text", b'"raw"', LONG):
            await storage.send_message(queue, body)
        messages = await storage.receive_messages(queue)
        assert [message.body for message in messages] == [{"a": [1]}, "plain text", "raw", LONG]
        assert [message.dequeue_count for message in messages] == [1] * 4
        for message in messages:
            await storage.delete_message(queue, message)
        assert not await storage.receive_messages(queue)

    async def test_what_is_not_deleted_comes_again(self, storage: UnifiedStorageManager, queue: str) -> None:
        await storage.send_message(queue, "again")
        [first] = await storage.receive_messages(queue, visibility_timeout=1)
        again: Sequence[QueueMessage] = ()
        async with asyncio.timeout(20):
            while not again:
                await asyncio.sleep(0.05)
                again = await storage.receive_messages(queue)
        [second] = again
        assert (second.body, second.dequeue_count) == ("again", 2)
        with pytest.raises(MessageGone):
            await storage.delete_message(queue, first)

    async def test_bytes_that_are_no_text_are_refused_and_hold_nothing_up(
        self, storage: UnifiedStorageManager, account: StorageAccount, queue: str
    ) -> None:
        for size in (1, 60_000):
            with pytest.raises(TypeError, match="not UTF-8"):
                await storage.send_message(queue, b"\xff" * size)
        ref = await Payloads(account, VALUES_CONTAINER).put(b"\xff", f"queues/{queue}")
        client = await account.queue(queue)
        await client.send_message(json.dumps({"$blob": ref.model_dump()}))
        await storage.send_message(queue, "the next one")
        bad, good = await storage.receive_messages(queue)
        assert bad.problem is not None
        assert "not UTF-8" in bad.problem
        assert (good.body, good.problem) == ("the next one", None)

    async def test_events_and_requests_have_queues_of_their_own(
        self, storage: UnifiedStorageManager, names: StorageNames
    ) -> None:
        await storage.enqueue_event({"kind": "event"})
        await storage.enqueue_request({"kind": "request"})
        assert [m.body for m in await storage.receive_messages(names.events)] == [{"kind": "event"}]
        assert [m.body for m in await storage.receive_messages(names.requests)] == [{"kind": "request"}]

    async def test_others_messages_are_read_too(
        self, storage: UnifiedStorageManager, account: StorageAccount, queue: str
    ) -> None:
        client = await account.queue(queue)
        await client.send_message('{"plain": true}')
        await client.send_message('{"$blob": {"container": "x"}}')
        stolen = '{"$blob": {"container": "%s", "name": "%s", "sha256": "0", "size": 1}}'
        await client.send_message(stolen % (VALUES_CONTAINER, f"queues/{queue}/../../entities/secret"))
        await client.send_message(stolen % (VALUES_CONTAINER, f"queues/{queue}/gone"))
        plain, odd, foreign, gone = await storage.receive_messages(queue)
        assert (plain.body, plain.problem, odd.problem) == ({"plain": True}, None, None)
        assert foreign.problem is not None
        assert "not made for this queue" in foreign.problem
        assert gone.problem is not None
        assert "removed" in gone.problem
        await storage.delete_message(queue, foreign)

    async def test_a_hundred_receivers_share_the_work(self, storage: UnifiedStorageManager, queue: str) -> None:
        await asyncio.gather(*(storage.send_message(queue, number) for number in range(100)))
        seen: list[int] = []

        async def work() -> None:
            while messages := await storage.receive_messages(queue, limit=8):
                seen.extend(message.body for message in messages)
                await asyncio.gather(*(storage.delete_message(queue, message) for message in messages))

        await asyncio.gather(*(work() for _ in range(4)))
        assert sorted(seen) == list(range(100))


@pytest.mark.parametrize(
    ("name", "said"), [("aosdue", "AOS itself"), ("a", "3 to 63"), ("with-hyphen", "letters and digits")]
)
async def test_bad_table_names_are_refused(storage: UnifiedStorageManager, name: str, said: str) -> None:
    with pytest.raises(StorageNameInvalid, match=said):
        await storage.get_entity(name, "p", "r")


@pytest.mark.parametrize("name", ["a", "Capital", "double--hyphen", "-first", "aos-state", "x" * 64])
async def test_bad_container_and_queue_names_are_refused(storage: UnifiedStorageManager, name: str) -> None:
    with pytest.raises(StorageNameInvalid):
        await storage.download_blob(name, "b")
    with pytest.raises(StorageNameInvalid):
        await storage.send_message(name, "m")


@pytest.mark.parametrize("name", ["", "../up", "a/./b", "back\\slash", "x" * 1025])
async def test_bad_blob_names_are_refused(storage: UnifiedStorageManager, container: str, name: str) -> None:
    with pytest.raises(StorageNameInvalid):
        await storage.upload_blob(container, name, b"")


async def test_the_configuration_is_really_asked(storage: UnifiedStorageManager, storage_settings: Settings) -> None:
    assert await storage.validate_configuration() == {
        "valid": True,
        "issues": [],
        "storage_configured": True,
        "services": {"tables": True, "blobs": True, "queues": True},
    }
    assert storage_settings.storage is not None
    parts = dict(part.split("=", 1) for part in storage_settings.storage.rstrip(";").split(";"))
    wrong = ";".join(f"{name}={value}" for name, value in {**parts, "AccountKey": "d3Jvbmc="}.items())
    async with UnifiedStorageManager(load_settings({STORAGE: wrong})) as refused:
        found = await refused.validate_configuration()
        assert not found["valid"]
        assert found["services"] == {"tables": False, "blobs": False, "queues": False}
        assert "roles" in found["issues"][0]


async def test_without_settings_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORAGE, raising=False)
    async with UnifiedStorageManager() as storage:
        found = await storage.validate_configuration()
        assert not found["valid"]
        assert STORAGE in found["issues"][0]
        with pytest.raises(SettingError, match=STORAGE):
            await storage.get_conversation("c")


async def test_the_documented_example_runs(own_storage_settings: Settings) -> None:
    text = (Path(__file__).parents[2] / "docs" / "storage.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        env={**os.environ, STORAGE: own_storage_settings.storage or ""},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode == 0
    assert output.decode().splitlines() == [
        "['How was the third quarter?'] None",
        "['cash', 'risk']",
        "['cfo/train.jsonl']",
        "{'kind': 'quarter_closed'}",
    ]


class TestThrottling:
    """An account that is busy, as a proxy before Azurite plays it."""

    @pytest.fixture
    async def refusals(self) -> dict[str, int]:
        return {"left": 0}

    @pytest.fixture
    async def behind(
        self, storage_settings: Settings, refusals: dict[str, int]
    ) -> AsyncIterator[UnifiedStorageManager]:
        assert storage_settings.storage is not None
        parts = dict(part.split("=", 1) for part in storage_settings.storage.rstrip(";").split(";"))
        target = parts["TableEndpoint"]

        async def forward(request: web.Request) -> web.Response:
            if refusals["left"] > 0:
                refusals["left"] -= 1
                return web.Response(status=503, headers={"x-ms-error-code": "ServerBusy", "Retry-After": "0"})
            origin = target.split("/devstoreaccount1")[0]
            url = URL(origin + request.raw_path, encoded=True)
            body = await request.read() or None
            async with (
                aiohttp.ClientSession(auto_decompress=False) as client,
                client.request(request.method, url, headers=request.headers, data=body) as answer,
            ):
                skipped = ("transfer-encoding", "content-length", "connection")
                headers = {k: v for k, v in answer.headers.items() if k.lower() not in skipped}
                return web.Response(status=answer.status, headers=headers, body=await answer.read())

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        parts["TableEndpoint"] = f"http://127.0.0.1:{port}/devstoreaccount1"
        settings = load_settings({STORAGE: ";".join(f"{name}={value}" for name, value in parts.items())})
        async with UnifiedStorageManager(settings) as storage:
            yield storage
        await runner.cleanup()

    async def test_a_busy_moment_is_waited_out(
        self, behind: UnifiedStorageManager, refusals: dict[str, int], table: str
    ) -> None:
        await behind.upsert_entity(table, {"PartitionKey": "p", "RowKey": "r", "n": 1})
        refusals["left"] = 1
        found = await behind.get_entity(table, "p", "r")
        assert found is not None
        assert found["n"] == 1
        assert refusals["left"] == 0

    async def test_a_busy_account_is_a_typed_error(
        self, behind: UnifiedStorageManager, refusals: dict[str, int], table: str
    ) -> None:
        await behind.upsert_entity(table, {"PartitionKey": "p", "RowKey": "r"})
        refusals["left"] = 50
        with pytest.raises(StorageUnavailable, match="503"):
            await behind.get_entity(table, "p", "r")
        assert 50 - refusals["left"] == 3, "one try and two more"
