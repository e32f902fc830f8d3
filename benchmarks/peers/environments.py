"""An environment per peer, at the pinned version, made once under the state folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.systems import System

ROOT = Path(__file__).resolve().parents[2]
PYTHON_SETTING = "AOS_BENCH_PYTHON313"
"""Names an interpreter of Python 3.13 where `python3.13` is not on the path."""


class Missing(Exception):
    """The system cannot be measured here; says why in one line."""


def interpreter(system: System, folder: Path) -> str:
    """The interpreter that has the system; its environment is made in `folder` if need be.

    Raises:
        Missing: There is no Python that it needs, or it could not be installed.
    """
    if not system.requirement:
        return sys.executable
    home = folder / system.requirement.replace("==", "-")
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = home / ".installed"
    if not done.exists():
        base = _base(system)
        shutil.rmtree(home, ignore_errors=True)
        _run("the environment", base, "-m", "venv", str(home))
        _run(system.requirement, str(python), "-m", "pip", "install", "--quiet", system.requirement)
        done.touch()
    return str(python)


def _base(system: System) -> str:
    if not system.python:
        return sys.executable
    for candidate in (os.environ.get(PYTHON_SETTING), f"python{system.python}"):
        found = shutil.which(candidate) if candidate else None
        if found is not None:
            said = subprocess.run([found, "-V"], capture_output=True, text=True, check=False).stdout
            if said.startswith(f"Python {system.python}."):
                return found
    raise Missing(f"needs Python {system.python}: none is on the path, nor named by {PYTHON_SETTING}")


def _run(what: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Missing(f"{what} could not be installed: {said[-1] if said else done.returncode}")
