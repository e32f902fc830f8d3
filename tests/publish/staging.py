"""The package that publishing uploads: the project folder without what `.funcignore` names.

Core Tools and azd read `.funcignore` with the rules of .gitignore, and leave `local.settings.json` behind in any case.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

ROOT = Path(__file__).parents[2]
PACKAGES = Path(".python_packages/lib/site-packages")
"""Where remote build puts what requirements.txt names, beside function_app.py."""


def published_files(project: Path = ROOT) -> Iterator[Path]:
    """Paths of the files that are uploaded, relative to the project, in order."""
    ignored = GitIgnoreSpec.from_lines((project / ".funcignore").read_text(encoding="utf-8").splitlines())
    for folder, folders, files in os.walk(project):
        here = Path(folder).relative_to(project)
        # As git does: nothing inside an ignored folder is looked at.
        folders[:] = sorted(name for name in folders if not ignored.match_file(f"{(here / name).as_posix()}/"))
        for name in sorted(files):
            path = here / name
            if not ignored.match_file(path.as_posix()) and name != "local.settings.json":
                yield path


def stage(target: Path, project: Path = ROOT) -> int:
    """Copies what is uploaded to `target`; the size of the zip in bytes."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
            for path in published_files(project):
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(project / path, target / path)
                package.write(project / path, path.as_posix())
        return file.seek(0, os.SEEK_END)


def install_command(requirements: Path, target: Path) -> list[str]:
    """What the remote build runs, but for byte code, which is written at the first start as it is here."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    return [*pip, "--no-warn-conflicts", "--target", str(target), "-r", str(requirements)]
