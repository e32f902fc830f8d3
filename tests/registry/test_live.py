from __future__ import annotations

import asyncio
import json
import threading
import uuid
from pathlib import Path

import pytest

from aos.errors import AosError, StorageUnavailable
from aos.registry.agents import parse_agents
from aos.registry.errors import RegistryInvalid, RegistryMissing
from aos.registry.live import LiveRegistry, Loaded
from aos.registry.source import BlobSource, Document, FileSource
from aos.storage.account import StorageAccount


class VirtualClock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class ScriptedSource:
    """Holds a document or an error; counts reads; can be made to wait in the middle of one."""

    def __init__(self, content: bytes | AosError | Exception = b"1") -> None:
        self.content = content
        self.asked: list[str | None] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def read(self, etag: str | None) -> Document | None:
        self.asked.append(etag)
        self.entered.set()
        await self.gate.wait()
        if isinstance(self.content, Exception):
            raise self.content
        current = f"etag-{self.content.decode()}"
        return None if current == etag else Document(self.content, current, "script")


def healthy(live: LiveRegistry[int]) -> bool:
    return live.problem is None and live.problem_since is None


def number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise RegistryInvalid(f"{data!r} is not a number.") from None


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def source() -> ScriptedSource:
    return ScriptedSource()


@pytest.fixture
def live(source: ScriptedSource, clock: VirtualClock) -> LiveRegistry[int]:
    return LiveRegistry(source, number, clock, max_age=15.0)


async def test_a_copy_is_used_until_it_is_too_old(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock
) -> None:
    assert live.peek() is None
    start = clock.time
    first = await live.current()
    assert first == Loaded(1, "etag-1", start, start, "script")
    clock.time += 14.9
    assert await live.current() is first
    assert source.asked == [None]
    clock.time += 0.1
    second = await live.current()
    assert source.asked == [None, "etag-1"]
    assert (second.value, second.loaded_at, second.checked_at) == (1, start, start + 15)
    assert live.peek() is second


async def test_a_change_is_seen_at_the_next_check(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock
) -> None:
    await live.current()
    source.content = b"2"
    assert (await live.current()).value == 1
    clock.time += 15
    changed = await live.current()
    assert (changed.value, changed.generation, changed.loaded_at) == (2, "etag-2", clock.time)


async def test_a_clock_that_is_set_back_does_not_stop_the_checks(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock
) -> None:
    await live.current()
    clock.time -= 3600
    await live.current()
    assert len(source.asked) == 2


async def test_while_one_caller_reads_others_get_the_present_copy(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock
) -> None:
    await live.current()
    clock.time += 20
    source.content = b"2"
    source.gate.clear()
    source.entered.clear()
    reader = asyncio.create_task(live.current())
    await source.entered.wait()
    assert [(await live.current()).value for _ in range(3)] == [1, 1, 1]
    source.gate.set()
    assert (await reader).value == 2
    assert (await live.current()).value == 2
    assert len(source.asked) == 2


async def test_without_a_copy_all_wait_for_one_read(live: LiveRegistry[int], source: ScriptedSource) -> None:
    source.gate.clear()
    callers = [asyncio.create_task(live.current()) for _ in range(5)]
    await source.entered.wait()
    source.gate.set()
    assert [loaded.value for loaded in await asyncio.gather(*callers)] == [1] * 5
    assert source.asked == [None]


async def test_a_reader_that_is_cancelled_leaves_the_work_to_the_next(
    live: LiveRegistry[int], source: ScriptedSource
) -> None:
    source.gate.clear()
    first, second = asyncio.create_task(live.current()), asyncio.create_task(live.current())
    await source.entered.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    source.gate.set()
    assert (await second).value == 1
    assert live.problem is None


@pytest.mark.parametrize(
    "failure",
    [StorageUnavailable("The storage account did not answer."), RegistryMissing("There is no blob."), b"not a number"],
)
async def test_a_failure_keeps_the_last_good_copy_and_is_exposed(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock, failure: AosError | bytes
) -> None:
    good = await live.current()
    source.content = failure
    clock.time += 20
    failed_at = clock.time
    assert await live.current() is good
    assert live.problem == (
        failure.detail if isinstance(failure, AosError) else "script: b'not a number' is not a number."
    )
    assert live.problem_since == failed_at

    for _ in range(10):  # messages come in: none of them looks again
        clock.time += 1
        assert await live.current() is good
    assert len(source.asked) == 2

    clock.time += 10
    assert await live.current() is good
    assert len(source.asked) == 3
    assert live.problem_since == failed_at

    source.content = b"3"
    clock.time += 20
    assert (await live.current()).value == 3
    assert healthy(live)


async def test_a_document_that_was_refused_is_not_parsed_again_and_stays_the_problem(
    source: ScriptedSource, clock: VirtualClock
) -> None:
    parsed: list[bytes] = []

    def parse(data: bytes) -> int:
        parsed.append(data)
        return number(data)

    live = LiveRegistry(source, parse, clock)
    await live.current()
    source.content = b"bad"
    clock.time += 20
    await live.current()
    source.content = StorageUnavailable("Away.")
    clock.time += 20
    await live.current()
    assert live.problem == "Away."
    source.content = b"bad"
    clock.time += 20
    assert (await live.current()).value == 1
    assert live.problem == "script: b'bad' is not a number."
    assert parsed == [b"1", b"bad"]
    assert source.asked == [None, "etag-1", "etag-bad", "etag-bad"]

    source.content = b"1"  # put back as it was
    clock.time += 20
    assert (await live.current()).checked_at == clock.time
    assert live.problem is None
    clock.time += 20
    await live.current()
    assert source.asked[4:] == ["etag-bad", "etag-1"]


async def test_without_a_copy_the_error_is_raised_and_soon_tried_again(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock
) -> None:
    source.content = StorageUnavailable("Away.")
    for _ in range(3):
        with pytest.raises(StorageUnavailable, match=r"Away\."):
            await live.current()
    assert len(source.asked) == 1
    assert live.peek() is None
    assert live.problem == "Away."
    clock.time += 1
    source.content = b"4"
    assert (await live.current()).value == 4
    assert live.problem is None


async def test_an_error_for_many_callers_does_not_grow(live: LiveRegistry[int], source: ScriptedSource) -> None:
    source.content = RegistryMissing("None.")
    depths = []
    for _ in range(5):
        with pytest.raises(RegistryMissing) as caught:
            await live.refresh()
        depths.append(len(caught.traceback))
    assert depths[1] == depths[4]


async def test_refresh_looks_now(live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock) -> None:
    await live.current()
    source.content = b"2"
    clock.time += 1
    assert (await live.refresh()).value == 2
    source.content = b"3"
    clock.time += 0.9
    assert (await live.refresh()).value == 2
    assert len(source.asked) == 2
    clock.time += 0.1
    assert (await live.refresh()).value == 3


async def test_callers_of_refresh_at_the_same_time_share_one_look(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock
) -> None:
    await live.current()
    clock.time += 5
    source.content = b"2"
    source.gate.clear()
    source.entered.clear()
    callers = [asyncio.create_task(live.refresh()) for _ in range(4)]
    await source.entered.wait()
    source.gate.set()
    assert [loaded.value for loaded in await asyncio.gather(*callers)] == [2] * 4
    assert len(source.asked) == 2


async def test_a_reload_sees_what_changed_before_it(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock
) -> None:
    await live.current()
    source.content = b"2"
    assert (await live.refresh()).value == 1  # somebody looked within this second
    before = clock.now()
    assert (await live.reload()).value == 2
    assert clock.now() - before == pytest.approx(1.0)


async def test_a_reload_does_not_share_a_look_that_began_before_it(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock
) -> None:
    source.gate.clear()
    first = asyncio.create_task(live.current())
    await source.entered.wait()
    clock.time += 0.1
    reloads = [asyncio.create_task(live.reload()) for _ in range(3)]
    await asyncio.sleep(0)
    source.gate.set()
    began = [(await first).checked_at, *[(await reload).checked_at for reload in reloads]]
    assert len(source.asked) == 2  # one look for `current`, one for all who asked after it had begun
    assert began[1:] == [began[1]] * 3
    assert began[1] > began[0] + 0.1


async def test_a_failed_refresh_returns_the_copy_with_its_age(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock
) -> None:
    first = await live.current()
    clock.time += 5
    source.content = StorageUnavailable("Away.")
    assert (await live.refresh()).checked_at == first.checked_at
    assert live.problem == "Away."
    clock.time += 5
    assert await live.current() is first
    assert len(source.asked) == 2


async def test_checked_at_is_when_the_read_began(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock
) -> None:
    for _ in range(2):  # a new document, then one that did not change
        source.gate.clear()
        source.entered.clear()
        clock.time += 20
        began = clock.time
        reader = asyncio.create_task(live.current())
        await source.entered.wait()
        clock.time += 3  # somebody may have changed the document meanwhile
        source.gate.set()
        assert (await reader).checked_at == began


async def test_parsing_leaves_the_loop_alone(source: ScriptedSource, clock: VirtualClock) -> None:
    threads: list[int] = []

    def parse(data: bytes) -> int:
        threads.append(threading.get_ident())
        return number(data)

    await LiveRegistry(source, parse, clock).current()
    assert threads != [threading.get_ident()]


async def test_an_unexpected_error_is_neither_hidden_nor_remembered(
    live: LiveRegistry[int], source: ScriptedSource
) -> None:
    source.content = ZeroDivisionError("a bug")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await live.current()
    source.content = b"1"
    assert (await live.current()).value == 1


async def test_warnings_are_logged_once_per_reason(
    live: LiveRegistry[int], source: ScriptedSource, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "aos.registry")
    await live.current()
    source.content = RegistryMissing("It is gone.")
    for _ in range(4):
        clock.time += 20
        await live.current()
    assert [r.getMessage() for r in caplog.records if r.name.startswith("aos.registry")] == [
        "the registry cannot be read, the last good copy stays in use: It is gone."
    ]


def document(*names: str) -> bytes:
    entries = [{"agent_id": name, "purpose": "p", "domain_knowledge": {"domain": name}} for name in names]
    return json.dumps({"version": "1.0", "agents": entries}).encode()


async def test_a_file_is_followed(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "agent_registry.json"
    live = LiveRegistry(FileSource(path), parse_agents, clock)
    with pytest.raises(RegistryMissing, match="agent_registry"):
        await live.current()
    path.write_bytes(document("ceo"))
    clock.time += 15
    assert list((await live.current()).value.entries) == ["ceo"]
    path.write_bytes(document("ceo", "cfo"))
    clock.time += 15
    assert list((await live.current()).value.entries) == ["ceo", "cfo"]
    path.write_text('{"agents": [')
    clock.time += 15
    assert list((await live.current()).value.entries) == ["ceo", "cfo"]
    assert live.problem is not None
    assert "line 1, column 13" in live.problem
    path.unlink()
    clock.time += 15
    assert list((await live.current()).value.entries) == ["ceo", "cfo"]
    assert live.problem is not None
    assert "There is no file" in live.problem
    path.write_bytes(document())
    clock.time += 15
    assert (await live.current()).value.entries == {}
    assert live.problem is None


async def test_a_blob_is_followed(registry_storage: StorageAccount, clock: VirtualClock) -> None:
    container = await registry_storage.container(f"live-{uuid.uuid4().hex}")
    live = LiveRegistry(
        BlobSource(registry_storage, container.container_name, "agent_registry.json"), parse_agents, clock
    )
    with pytest.raises(RegistryMissing, match="az storage blob upload"):
        await live.current()
    await container.upload_blob("agent_registry.json", document("ceo"))
    clock.time += 1
    first = await live.current()
    assert list(first.value.entries) == ["ceo"]
    clock.time += 15
    unchanged = await live.current()
    assert unchanged.value is first.value
    assert unchanged.checked_at == clock.time
    await container.upload_blob("agent_registry.json", document("cfo"), overwrite=True)
    clock.time += 1
    changed = await live.refresh()
    assert list(changed.value.entries) == ["cfo"]
    assert changed.generation != first.generation
    await container.delete_container()
    clock.time += 15
    assert await live.current() is changed
    assert live.problem is not None
