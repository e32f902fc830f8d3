"""Tests of training need the extra `ml`: without it they are not collected, and a plain run says so once."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lora.tiny import make_base, write_data

NEED_TORCH = ("test_training.py", "test_serving.py", "test_adapters_cli.py", "test_pipeline.py")
collect_ignore = [] if importlib.util.find_spec("torch") and importlib.util.find_spec("peft") else list(NEED_TORCH)


def pytest_report_header() -> str | None:
    return f"aos.lora: {', '.join(NEED_TORCH)} need the extra `ml` (make test-ml)" if collect_ignore else None


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are slower on many threads, above all beside other tests."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    if not collect_ignore:
        import torch

        torch.set_num_threads(1)
    yield
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model that all tests share."""
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Training data by role."""
    folder = tmp_path_factory.mktemp("data")
    return {role: write_data(folder / f"{role}.jsonl", role) for role in ("ceo", "cfo")}
