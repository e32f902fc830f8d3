"""The part of AOS that goes along with a job: what it runs, and the packages that this takes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aos

MODULES = ("__init__", "errors")
LORA_MODULES = (
    *("__init__", "azure_job", "azure_score", "card", "data"),
    *("errors", "inference", "job", "tokens", "training"),
)
PYTHON = "3.12"
REQUIREMENTS = (
    "accelerate>=1.15,<2",
    "filelock>=3.20,<4",
    "peft>=0.21,<1",
    "pydantic>=2.12,<3",
    "safetensors>=0.6,<1",
    "torch>=2.9,<3",
    "transformers>=5.23,<6",
)
SCORE = "from aos.lora.azure_score import init as init\nfrom aos.lora.azure_score import run as run\n"


@contextmanager
def snapshot(*, score: bool = False) -> Iterator[Path]:
    """A folder with the modules that a job needs; the same content each time, so that the service keeps one copy.

    Args:
        score: With `score.py`, which an online endpoint starts from.
    """
    source = Path(aos.__file__).parent
    with TemporaryDirectory() as folder:
        code = Path(folder) / "code"
        lora = code / "aos" / "lora"
        lora.mkdir(parents=True)
        for module in MODULES:
            shutil.copy(source / f"{module}.py", code / "aos")
        for module in LORA_MODULES:
            shutil.copy(source / "lora" / f"{module}.py", lora)
        if score:
            (code / "score.py").write_text(SCORE, encoding="utf-8")
        yield code


def conda(*more: str) -> dict[str, object]:
    """The environment of a job as a conda specification."""
    return {
        "name": "aos-lora",
        "channels": ["conda-forge"],
        "dependencies": [f"python={PYTHON}", "pip", {"pip": [*REQUIREMENTS, *more]}],
    }
