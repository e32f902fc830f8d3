"""Puts the project's registries into their blob containers."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from emulators.errors import BadSetting
from emulators.parts import Report


async def seed_registries(
    connection_string: str, files: dict[Path, str], *, replace: bool = False, report: Report
) -> None:
    """Uploads each file into its container under its own name, unless a blob of that name is there already.

    A blob that differs from its file may have been edited by the user: it is replaced only with `replace`. What was
    done with each file is reported.

    Args:
        files: file -> container.

    Raises:
        BadSetting: a file is not JSON.
    """
    from azure.core.exceptions import ResourceExistsError
    from azure.storage.blob.aio import BlobServiceClient

    async with BlobServiceClient.from_connection_string(connection_string) as service:
        for path, container in files.items():
            content = read_registry(path)
            blob = service.get_blob_client(container, path.name)
            with suppress(ResourceExistsError):  # from an earlier start
                await service.create_container(container)
            if content is None:
                report(f"{path} does not exist: nothing to put into container {container}")
                continue
            try:
                await blob.upload_blob(content, overwrite=False)
            except ResourceExistsError:
                present = await (await blob.download_blob()).readall()
                if present == content:
                    continue
                if replace:
                    await blob.upload_blob(content, overwrite=True)
                    report(f"{container}/{path.name}: replaced by {path}")
                else:
                    report(f"{container}/{path.name}: kept, although it differs from {path} (--seed replaces it)")
            else:
                report(f"{container}/{path.name}: uploaded")


def read_registry(path: Path) -> bytes | None:
    """The content of a registry file, None if there is no such file.

    Raises:
        BadSetting: it is not JSON; the text names the line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        json.loads(content)
    except ValueError as error:
        raise BadSetting(f"{path} is not JSON: {error}") from error
    return content
