"""The names that Azure Storage takes, checked before a request is made.

Rules: "Understanding the Table service data model", "Naming and referencing containers, blobs, and metadata" and
"Naming queues and metadata" of the Azure Storage REST documentation.
"""

from __future__ import annotations

import re
from typing import Literal

from aos.errors import AosError

Kind = Literal["table", "container", "queue", "blob"]

_HYPHENATED = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}")
_RULES: dict[Kind, tuple[re.Pattern[str], str]] = {
    "table": (re.compile(r"[A-Za-z][A-Za-z0-9]{2,62}"), "3 to 63 letters and digits, a letter first"),
    "container": (_HYPHENATED, "3 to 63 of a-z, 0-9 and single hyphens between them"),
    "queue": (_HYPHENATED, "3 to 63 of a-z, 0-9 and single hyphens between them"),
    "blob": (re.compile(r"[^\x00-\x1f\x7f\\]{1,1024}"), "1 to 1,024 characters, no backslash or control character"),
}


class StorageNameInvalid(AosError):
    code = "bad_name"
    title = "Azure Storage does not take this name."


def checked(kind: Kind, name: str) -> str:
    """The name, if the service takes it.

    Raises:
        StorageNameInvalid: Says what the service takes. A blob's name also has no `.` or `..` as a segment: clients and
            proxies resolve those, and the name would mean another blob.
    """
    pattern, rule = _RULES[kind]
    if pattern.fullmatch(name) is None or len(name) > (1024 if kind == "blob" else 63):
        raise StorageNameInvalid(f"{name[:80]!r} cannot name a {kind}: {rule}.")
    if kind == "blob" and any(segment in (".", "..") for segment in name.split("/")):
        raise StorageNameInvalid(f"{name[:80]!r} cannot name a blob: no segment of it may be `.` or `..`.")
    return name
