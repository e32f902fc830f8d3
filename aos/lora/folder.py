"""Adapters in a folder of this machine: `{home}/{adapter}/v{n}`."""

from __future__ import annotations

from pathlib import Path

from aos.lora.errors import UnknownAdapter
from aos.lora.job import ADAPTER_NAME, TrainingReport
from aos.lora.training import read_report, versions


def find(home: Path, adapter: str, version: int | None = None) -> Path:
    """The folder of a version, of the newest without a number.

    Raises:
        UnknownAdapter: Names those that exist.
    """
    there = versions(home / adapter) if ADAPTER_NAME.fullmatch(adapter) else {}
    if not there:
        known = ", ".join(newest(home)) or "none"
        raise UnknownAdapter(f"{home} has no adapter {adapter!r}; it has {known}.")
    number = max(there) if version is None else version
    if number not in there:
        raise UnknownAdapter(f"{home / adapter} has no v{number}; it has {', '.join(f'v{n}' for n in there)}.")
    return there[number]


def newest(home: Path) -> dict[str, Path]:
    """The newest version of each adapter."""
    if not home.is_dir():
        return {}
    found = {path.name: versions(path) for path in sorted(home.iterdir()) if ADAPTER_NAME.fullmatch(path.name)}
    return {name: there[max(there)] for name, there in found.items() if there}


def reports(home: Path) -> list[TrainingReport]:
    """What is known of the newest version of each adapter."""
    return [read_report(path) for path in newest(home).values()]
