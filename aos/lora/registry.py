"""The registry of adapters: which versions there are, shared by all processes, with the files of each.

Table `aosadapters`: partition = adapter, row = version, with the training's report. Container `aos-adapters`: the files
under `{adapter}/v{version}/`. A row is written after its files, so that a version in the registry is whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from aos.lora.errors import TrainingDataInvalid, UnknownAdapter
from aos.lora.job import TrainingReport
from aos.lora.training import REPORT, read_report
from aos.storage.account import StorageAccount, storage_errors

TABLE = "aosadapters"
CONTAINER = "aos-adapters"
PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """A version in the registry; `folder` is the beginning of its blobs' names in container `aos-adapters`."""

    adapter: str
    version: int
    folder: str
    files: int
    size: int
    report: TrainingReport


class AdapterRegistry:
    """Adapters of an account."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account

    async def register(self, folder: Path) -> AdapterVersion:
        """Uploads a trained version and enters it under the next free number of its adapter.

        Two processes that register at once get two numbers. Registering the same training again enters it again.

        Raises:
            UnknownAdapter: The folder is none that a training made.
        """
        from azure.core.exceptions import ResourceExistsError
        from azure.data.tables import UpdateMode

        try:
            report = await asyncio.to_thread(read_report, folder)
        except (OSError, ValueError):
            raise UnknownAdapter(f"{folder} holds no {REPORT}: it is not a finished version of an adapter.") from None
        files = await asyncio.to_thread(_files, folder)
        table = await self._account.table(TABLE)
        known = await self.versions(report.adapter)
        number = max((version.version for version in known), default=0)
        while True:
            number += 1
            prefix = f"{report.adapter}/v{number}"
            claim = {"PartitionKey": report.adapter, "RowKey": f"claim:{number:06d}"}
            try:
                with storage_errors(f"table {TABLE}"):
                    await table.create_entity(claim)
                break
            except ResourceExistsError:
                continue
        container = await self._account.container(CONTAINER)
        size = 0
        for path, length in files:
            with storage_errors(f"blob {prefix}/{path.name}"):
                await container.upload_blob(f"{prefix}/{path.name}", _pieces(path), length=length, overwrite=True)
            size += length
        entered = AdapterVersion(
            report.adapter,
            number,
            prefix,
            len(files),
            size,
            report.model_copy(update={"version": number, "path": f"{CONTAINER}/{prefix}"}),
        )
        with storage_errors(f"table {TABLE}"):
            # The number is ours. A request whose answer was lost is repeated, and must not meet its own row.
            await table.upsert_entity(_row(entered), mode=UpdateMode.REPLACE)
        return entered

    async def adapters(self) -> list[AdapterVersion]:
        """The newest version of each adapter."""
        newest: dict[str, AdapterVersion] = {}
        for version in await self._query("RowKey ge 'v:' and RowKey lt 'v;'"):
            newest[version.adapter] = version
        return [newest[name] for name in sorted(newest)]

    async def versions(self, adapter: str) -> list[AdapterVersion]:
        """All versions of an adapter, oldest first."""
        quoted = adapter.replace("'", "''")
        return await self._query(f"PartitionKey eq '{quoted}' and RowKey ge 'v:' and RowKey lt 'v;'")

    async def version(self, adapter: str, number: int | None = None) -> AdapterVersion:
        """One version, the newest without a number.

        Raises:
            UnknownAdapter: Names those that exist.
        """
        known = await self.versions(adapter)
        for version in reversed(known):
            if number is None or version.version == number:
                return version
        there = ", ".join(f"v{version.version}" for version in known) or "none"
        raise UnknownAdapter(
            f"The registry has no {adapter!r}{'' if number is None else f' v{number}'}; it has {there}."
        )

    async def download(self, version: AdapterVersion, into: Path) -> Path:
        """Copies a version's files into a folder."""
        await asyncio.to_thread(into.mkdir, parents=True, exist_ok=True)
        container = await self._account.container(CONTAINER)
        with storage_errors(f"container {CONTAINER}"):
            async for blob in container.list_blobs(name_starts_with=f"{version.folder}/"):
                target = into / PurePosixPath(blob.name).name
                stream = await container.download_blob(blob.name)
                with await asyncio.to_thread(target.open, "wb") as file:
                    async for piece in stream.chunks():
                        await asyncio.to_thread(file.write, piece)
        return into

    async def fetch_data(self, path: str, into: Path) -> Path:
        """Copies training data from a blob (`{container}/{name}`) to a file.

        Raises:
            TrainingDataInvalid: There is no such blob.
        """
        from azure.core.exceptions import ResourceNotFoundError

        name, _, blob = path.partition("/")
        container = await self._account.container(name, create=False)
        try:
            with storage_errors(f"blob {path}"):
                stream = await container.download_blob(blob)
                with await asyncio.to_thread(into.open, "wb") as file:
                    async for piece in stream.chunks():
                        await asyncio.to_thread(file.write, piece)
        except ResourceNotFoundError:
            raise TrainingDataInvalid(f"{path} is neither a file nor a blob `container/name`.") from None
        return into

    async def _query(self, wanted: str) -> list[AdapterVersion]:
        table = await self._account.table(TABLE)
        with storage_errors(f"table {TABLE}"):
            return [_version(row) async for row in table.query_entities(wanted)]


def _files(folder: Path) -> list[tuple[Path, int]]:
    return [(path, path.stat().st_size) for path in sorted(folder.iterdir()) if path.is_file()]


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece


def _row(version: AdapterVersion) -> dict[str, Any]:
    return {
        "PartitionKey": version.adapter,
        "RowKey": f"v:{version.version:06d}",
        "folder": version.folder,
        "files": version.files,
        "size": version.size,
        "report": version.report.model_dump_json(),
    }


def _version(row: Any) -> AdapterVersion:
    return AdapterVersion(
        adapter=row["PartitionKey"],
        version=int(row["RowKey"][2:]),
        folder=row["folder"],
        files=row["files"],
        size=row["size"],
        report=TrainingReport.model_validate_json(row["report"]),
    )
