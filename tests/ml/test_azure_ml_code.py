"""What goes along with a job: enough to run, and the packages that training takes here."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from aos.ml.azure_ml_code import LORA_MODULES, REQUIREMENTS, conda, snapshot

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_job_installs_what_the_extra_installs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    base = re.findall(r"^pydantic>.*$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(REQUIREMENTS) == sorted([*extras["ml"], *base])
    assert conda("more>=1")["dependencies"] == ["python=3.12", "pip", {"pip": [*REQUIREMENTS, "more>=1"]}]


def test_the_code_of_a_job_needs_nothing_else_of_aos() -> None:
    with snapshot(score=True) as code:
        script = (
            f"import sys; sys.path.insert(0, {str(code)!r})\n"
            f"import importlib\nfor name in {LORA_MODULES!r}: importlib.import_module(f'aos.lora.{{name}}')\n"
            "import score\nprint(score.init, score.run)\n"
            f"assert all(m.__file__.startswith({str(code)!r}) for n, m in sys.modules.items() if n.startswith('aos'))"
        )
        done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_same_code_is_the_same_bytes() -> None:
    with snapshot() as first, snapshot() as second, snapshot(score=True) as third:
        assert contents(first) == contents(second)
        assert contents(third).keys() - contents(first).keys() == {"score.py"}
