"""The samples of `docs/adapters.md`, run as they stand there with a tiny base model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aos.lora.data import read_examples
from aos.registry.agents import parse_agents
from tests.lora.tiny import make_base, write_data
from tests.ml.azure_cloud import AzureCloud
from tests.ml.azure_ml_service import AzureMLService

pytestmark = [
    pytest.mark.ml,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:marshmallow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:azure.ai.ml"),
]
ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/adapters.md").read_text(encoding="utf-8")
BASE = "meta-llama/Llama-3.1-8B-Instruct"


def samples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "sample"}
    exec(compile(code, "docs/adapters.md", "exec"), names)  # noqa: S102 - the point of the test
    return names


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the samples name."""
    folder = tmp_path_factory.mktemp("document")
    make_base(folder / BASE)
    (folder / "data").mkdir()
    write_data(folder / "data/ceo.jsonl", "ceo")
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_the_data_is_data(tmp_path: Path) -> None:
    [lines] = samples("jsonl")
    (tmp_path / "data.jsonl").write_text(lines)
    assert len(read_examples(tmp_path / "data.jsonl").examples) == 2


def test_the_entry_is_an_entry() -> None:
    [entry] = samples("json")
    registry = parse_agents(f'{{"version": "1.0", "agents": [{entry}]}}'.encode())
    assert (registry.problems, registry.warnings) == ((), ())


def test_an_adapter_is_trained_by_command_and_by_its_agent(place: Path) -> None:
    [commands] = samples("sh")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(["sh", "-ec", commands], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"ceo +│ v1 +│ adapters", done.stdout)
    assert "without the adapter" in done.stdout
    trained, _ = samples("python")
    report = run(trained)["report"]
    assert (report.version, report.path) == (2, "adapters/ceo/v2")
    assert report.eval_loss < report.base_eval_loss


def test_an_adapter_is_trained_in_azure(azure: tuple[AzureCloud, AzureMLService], place: Path) -> None:
    azure[1].hub[BASE] = place / "hub"
    (place / "hub").symlink_to(place / BASE)
    # On a machine that has the model only the hub's name is known of it.
    (place / "elsewhere").mkdir()
    (place / "elsewhere/data").symlink_to(place / "data")
    os.chdir(place / "elsewhere")
    _, pipeline = samples("python")
    done = run(pipeline)["run"]
    assert (done.status, done.compute, done.model_name) == ("Completed", "gpu", "lora-ceo")
    assert done.deployment.endpoint == "aos-ceo"
