"""The Dockerfile as data: there is no Docker engine where the tests run."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


@dataclass(frozen=True)
class Image:
    """Instructions in order, continuation lines joined, as (name, rest)."""

    folder: Path
    instructions: list[tuple[str, str]]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Parses a file; an instruction that this class does not know is refused."""
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        found = []
        for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
            if line.strip():
                name, _, rest = line.partition(" ")
                assert name in KNOWN, f"unknown instruction {line!r}"
                found.append((name, rest.strip()))
        return cls(path.parent, found)

    def all(self, name: str) -> list[str]:
        """What follows each instruction of a name."""
        return [rest for found, rest in self.instructions if found == name]

    @property
    def final(self) -> list[tuple[str, str]]:
        """The instructions of the last stage: of what is run."""
        starts = [number for number, (name, _) in enumerate(self.instructions) if name == "FROM"]
        return self.instructions[starts[-1] :]

    @property
    def environment(self) -> dict[str, str]:
        """`ENV` of the last stage."""
        lines = [rest for name, rest in self.final if name == "ENV"]
        return dict(pair.split("=", 1) for line in lines for pair in line.split())

    @property
    def command(self) -> list[str]:
        """`CMD`: in the exec form, so that signals reach the process."""
        (line,) = [rest for name, rest in self.final if name == "CMD"]
        command: list[str] = json.loads(line)
        return command

    @property
    def entry_point(self) -> list[str]:
        """`ENTRYPOINT`, in the exec form; what it starts is `command`."""
        (line,) = [rest for name, rest in self.final if name == "ENTRYPOINT"]
        words: list[str] = json.loads(line)
        return words

    @property
    def health_check(self) -> list[str]:
        """The command of `HEALTHCHECK`, in the exec form."""
        (line,) = [rest for name, rest in self.final if name == "HEALTHCHECK"]
        command: list[str] = json.loads(line.split("CMD ", 1)[1])
        return command

    def copies(self) -> list[tuple[list[str], str]]:
        """Sources and destination of every `COPY` from the folder."""
        parts = [rest.split() for rest in self.all("COPY") if not rest.startswith("--from=")]
        return [(words[:-1], words[-1]) for words in parts]

    def copy_into(self, target: Path) -> None:
        """Does what `COPY` does, with `target` for the working folder."""
        for sources, destination in self.copies():
            for source in sources:
                there = target / destination
                if (self.folder / source).is_dir():
                    shutil.copytree(self.folder / source, there, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(self.folder / source, there)
