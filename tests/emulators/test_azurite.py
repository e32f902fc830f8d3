"""Azurite, really installed and started, with the SDKs of Azure Storage as its clients."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from azure.data.tables.aio import TableClient
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueClient

from emulators.azurite import VERSION, Azurite, install
from emulators.azurite.install import find_node
from emulators.errors import InstallFailed, PortInUse
from emulators.ports import HOST, in_use

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / ".aos"


@pytest_asyncio.fixture(scope="module")
async def azurite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Azurite]:
    async with Azurite(state_dir=tmp_path_factory.mktemp("state"), install_dir=INSTALLED) as running:
        yield running


async def test_blobs(azurite: Azurite) -> None:
    async with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        await service.create_container("some-container")
        blob = service.get_blob_client("some-container", "folder/a.json")
        await blob.upload_blob(b'{"a": 1}')
        assert await (await blob.download_blob()).readall() == b'{"a": 1}'


async def test_queues(azurite: Azurite) -> None:
    async with QueueClient.from_connection_string(azurite.connection_string, "some-queue") as queue:
        await queue.create_queue()
        await queue.send_message("hello")
        received = [message async for message in queue.receive_messages()]
        assert [message.content for message in received] == ["hello"]
        await queue.delete_message(received[0])


async def test_tables(azurite: Azurite) -> None:
    async with TableClient.from_connection_string(azurite.connection_string, "sometable") as table:
        await table.create_table()
        await table.create_entity({"PartitionKey": "p", "RowKey": "r", "value": 42})
        assert (await table.get_entity("p", "r"))["value"] == 42


async def test_data_in_a_folder_survive_a_stop_at_once(tmp_path: Path) -> None:
    azurite = Azurite(location=tmp_path / "data", state_dir=tmp_path, install_dir=INSTALLED)
    async with azurite, BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        await service.create_container("kept")
        await service.get_blob_client("kept", "a").upload_blob(b"content")
        before = azurite.connection_string
    assert not any(in_use(port) for port in azurite.ports.values())
    async with azurite, BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        assert azurite.connection_string == before
        assert await (await service.get_blob_client("kept", "a").download_blob()).readall() == b"content"


async def test_a_port_in_use_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} of Azurite's queue service .* set AOS_QUEUE_PORT"):
            await Azurite(queue_port=port, state_dir=tmp_path, install_dir=INSTALLED).start()


async def test_the_machine_s_own_node_runs_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no Node.js on the path")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as if the package were not installed
    assert (await find_node()).binary == Path(shutil.which("node") or "")
    async with Azurite(state_dir=tmp_path, install_dir=INSTALLED) as azurite:
        assert in_use(azurite.ports["AOS_TABLE_PORT"])


async def test_a_missing_or_old_node_is_reported_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallFailed, match=r"needs Node\.js, which is not on the path: run `pip install"):
        await find_node()
    (tmp_path / "node").write_text("#!/bin/sh\necho v18.20.1\n")
    (tmp_path / "node").chmod(0o755)
    with pytest.raises(InstallFailed, match="needs npm, which is not on the path"):
        await find_node()
    (tmp_path / "npm").symlink_to("node")
    with pytest.raises(InstallFailed, match=r"needs Node\.js 20 or later, .*node is v18\.20\.1"):
        await find_node()


async def test_a_failing_install_leaves_nothing_that_looks_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    installing = importlib.import_module("emulators.azurite.install")  # its name in the package is the function's
    monkeypatch.setattr(installing, "_NPM_FLAGS", (*installing._NPM_FLAGS, "--fetch-retries=0"))
    told: list[str] = []
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))  # it is taken, and refuses every connection
        monkeypatch.setenv("npm_config_registry", f"http://{HOST}:{nobody.getsockname()[1]}/")
        with pytest.raises(InstallFailed, match=r"npm could not install(?s:.*)npm config list(?s:.*)ECONNREFUSED"):
            await install(tmp_path, told.append)
    assert len(told) == 1
    assert re.search(r"installing Azurite .*190 MB", told[0])
    assert not (tmp_path / f"azurite-{VERSION}").exists()


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InstallFailed, match="set AOS_AZURITE_DIR to a writable folder"):
        await install(tmp_path / "file")


@pytest.mark.slow
async def test_an_install_that_was_killed_is_done_again(tmp_path: Path) -> None:
    source = f"import asyncio, pathlib, emulators.azurite as a; asyncio.run(a.install(pathlib.Path({str(tmp_path)!r})))"
    part = tmp_path / f"azurite-{VERSION}.part"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", source, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (part / "node_modules").is_dir():  # npm is at work
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    process.kill()
    await process.wait()
    assert not (tmp_path / f"azurite-{VERSION}").exists()
    one, two = await asyncio.gather(install(tmp_path), install(tmp_path))
    assert one == two
    assert one[1].is_file()
    assert not part.exists()
    async with Azurite(state_dir=tmp_path) as azurite:
        assert in_use(azurite.ports["AOS_BLOB_PORT"])
    shutil.rmtree(tmp_path / f"azurite-{VERSION}")  # 190 MB that nobody needs again


def test_the_lock_file_names_no_registry() -> None:
    lock = (ROOT / "emulators" / "azurite" / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in lock
    assert f'"azurite": "{VERSION}"' in lock


def test_a_second_process_finds_it_installed(tmp_path: Path) -> None:
    source = (
        "import asyncio, emulators.azurite as a, pathlib, sys; asyncio.run(a.install(pathlib.Path(sys.argv[1]), print))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", source, str(INSTALLED)],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == ""
