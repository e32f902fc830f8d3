"""Runs the tests of both Foundry adapters with the oldest SDKs that requirements.txt admits.

The newest ones are what `make test` runs with. The old ones are laid over the environment, in a folder that comes first
on the path: what they need besides is there already, or is added if only they need it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SDKS = ("azure-ai-agents", "azure-ai-projects", "openai")
TESTS = tuple(f"tests/foundry/test_{part}.py" for part in ("contract", "streaming", "faults", "thread_faults"))


def lowest(requirements: str) -> list[str]:
    """The SDKs pinned to their lower bounds."""
    bounds = dict(re.findall(r"^([\w-]+)>=([\w.]+),", requirements, re.MULTILINE))
    return [f"{sdk}=={bounds[sdk]}" for sdk in SDKS]


def install(pins: Sequence[str], folder: Path) -> None:
    """Packages without what they depend on."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", folder, *pins], check=True)


def missing(folder: Path) -> list[str]:
    """What the packages in a folder require that the environment does not have."""
    wanted = [Requirement(text) for found in distributions(path=[str(folder)]) for text in found.requires or ()]
    names = {found.name for found in distributions(path=[str(folder)])}
    lacking: list[str] = []
    for requirement in wanted:
        if requirement.name in names or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            distribution(requirement.name)
        except PackageNotFoundError:
            lacking.append(str(requirement))
    return lacking


def main(arguments: Sequence[str]) -> int:
    pins = lowest((ROOT / "requirements.txt").read_text())
    folder = ROOT / "build" / "lowest-sdks"
    shutil.rmtree(folder, ignore_errors=True)
    install(pins, folder)
    if more := missing(folder):
        install(more, folder)
    print("with", ", ".join(f"{found.name} {found.version}" for found in distributions(path=[str(folder)])), flush=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "2",
        "--dist",
        "loadfile",
        *(arguments or TESTS),
    ]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(folder)}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
