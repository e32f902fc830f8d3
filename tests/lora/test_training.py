"""Trainings of a tiny model, for real."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aos.config import Settings
from aos.lora.data import read_examples
from aos.lora.errors import (
    BaseModelMissing,
    DiskFull,
    TrainingDataInvalid,
    TrainingFailed,
    TrainingJobInvalid,
    TrainingRunning,
    UnknownAdapter,
)
from aos.lora.folder import find, newest
from aos.lora.inference import AdapterModel
from aos.lora.job import Progress, TrainingJob
from aos.lora.process import run_training
from aos.lora.registry import AdapterRegistry
from aos.lora.training import train, versions
from aos.storage.account import StorageAccount
from tests.lora.tiny import ROLES

pytestmark = [
    pytest.mark.ml,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]
CONFIG = {"r": 8, "target_modules": ["q_proj", "v_proj", "gate_proj", "down_proj"]}


def job(role: str, base: Path, data: dict[str, Path], output: Path, **params: Any) -> TrainingJob:
    given = {"max_steps": 40, "learning_rate": 0.01, "batch_size": 8, "epochs": 100, "checkpoint_steps": 10}
    return TrainingJob.read(
        role,
        {"model_name": str(base), "data_path": str(data[role]), "output_dir": str(output), **given, **params},
        CONFIG,
    )


@pytest.fixture(scope="module")
def trained(base: Path, data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter for each role."""
    home = tmp_path_factory.mktemp("adapters")
    for role in ROLES:
        report = train(job(role, base, data, home), lambda _: None)
        assert report.version == 1
    return home


class TestWhatIsLearnt:
    def test_the_loss_falls(self, base: Path, data: dict[str, Path], tmp_path: Path) -> None:
        told: list[Progress] = []
        report = train(job("ceo", base, data, tmp_path), told.append)
        assert report.first_loss is not None
        assert report.train_loss < report.first_loss * 0.7
        assert report.eval_loss is not None
        assert report.base_eval_loss is not None
        assert report.eval_loss < report.base_eval_loss * 0.7
        assert (report.examples, report.eval_examples, report.steps) == (15, 1, 40)
        assert 0 < report.trained_parameters < report.all_parameters
        assert next(p.phase for p in told) == "loading"
        assert told[-1].phase == "saving"
        assert [p.step for p in told if p.loss is not None] == list(range(1, 41))

    def test_two_adapters_answer_differently_and_the_base_stays_as_it_is(self, base: Path, trained: Path) -> None:
        alone = AdapterModel(str(base), {})
        model = AdapterModel(str(base), newest(trained))
        asked = [{"role": "user", "content": "What is our aim?"}]
        said = {role: model.generate(role, asked, max_tokens=60) for role in ("ceo", "cfo", "ceo")}
        assert {role: made.text for role, made in said.items()} == {role: talks[0][1] for role, talks in ROLES.items()}
        assert all(made.finish_reason == "stop" for made in said.values())
        assert model.generate(None, asked, max_tokens=60) == alone.generate(None, asked, max_tokens=60)
        with pytest.raises(UnknownAdapter, match="Loaded: ceo, cfo"):
            model.generate("cto", asked)

    def test_an_adapter_knows_its_own_data_better(self, base: Path, data: dict[str, Path], trained: Path) -> None:
        model = AdapterModel(str(base), newest(trained))
        for role, other in (("ceo", "cfo"), ("cfo", "ceo")):
            examples = read_examples(data[role]).examples
            own, plain, foreign = (model.loss(name, examples) for name in (role, None, other))
            assert own < plain < foreign


class TestWhatIsWritten:
    def test_the_folder_is_in_peft_format_with_a_card(self, base: Path, data: dict[str, Path], trained: Path) -> None:
        folder = find(trained, "ceo")
        written = {path.name for path in folder.iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "training.json"} <= written
        assert json.loads((folder / "adapter_config.json").read_text())["r"] == 8
        card = (folder / "README.md").read_text()
        assert read_examples(data["ceo"]).data_hash in card
        assert re.search(r"\| Evaluation loss \| 0\.\d{4} \|", card)
        assert not (trained / "ceo" / ".checkpoints").exists()

    def test_each_training_is_a_version(self, base: Path, data: dict[str, Path], tmp_path: Path) -> None:
        for number in (1, 2):
            assert train(job("ceo", base, data, tmp_path, max_steps=1), lambda _: None).version == number
        assert list(versions(tmp_path / "ceo")) == [1, 2]
        assert find(tmp_path, "ceo", 1).name == "v1"
        with pytest.raises(UnknownAdapter, match=r"v1, v2"):
            find(tmp_path, "ceo", 3)
        with pytest.raises(UnknownAdapter, match="it has ceo"):
            find(tmp_path, "../ceo")


class TestTheProcess:
    async def test_a_killed_training_goes_on(self, base: Path, data: dict[str, Path], tmp_path: Path) -> None:
        long = job("ceo", base, data, tmp_path, max_steps=40)
        # It is killed where it is at its 25th step: from here it would be at any later one, or done.
        script = (
            "import os, signal, sys\nfrom aos.lora import process, training\ntrain = training.train\n"
            "def killed(job, tell):\n"
            "    def told(progress):\n"
            "        tell(progress)\n"
            "        if progress.step == 25: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return train(job, told)\n"
            "training.train = killed\nsys.exit(process.main())"
        )
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(long.model_dump_json().encode() + b"\n")
        await child.stdin.drain()
        *_, last = (await asyncio.wait_for(child.stdout.read(), 100)).splitlines()
        assert json.loads(last)["progress"]["step"] == 25
        assert await child.wait() == -signal.SIGKILL
        assert not versions(tmp_path / "ceo"), "half a training is no version"
        child.stdin.close()
        told: list[Progress] = []
        report = await run_training(long, told.append)
        assert report.resumed_from == 20
        assert min(p.step for p in told if p.loss is not None) == 21
        assert report.steps == 40

    @pytest.mark.parametrize("torn", ["trainer_state.json", "adapter_model.safetensors"])
    def test_a_checkpoint_that_a_crash_left_torn_is_passed_over(
        self, base: Path, data: dict[str, Path], tmp_path: Path, torn: str
    ) -> None:
        class Crash(Exception):
            pass

        def crash(progress: Progress) -> None:
            if progress.step == 12:
                raise Crash

        long = job("ceo", base, data, tmp_path, max_steps=14, checkpoint_steps=5)
        with pytest.raises(Crash):
            train(long, crash)
        # What a machine that lost its power leaves of a file that it had just written.
        (tmp_path / "ceo/.checkpoints/checkpoint-10" / torn).write_bytes(b"")
        report = train(long, lambda _: None)
        assert (report.resumed_from, report.steps) == (5, 14)

    async def test_other_data_starts_anew(self, base: Path, data: dict[str, Path], tmp_path: Path) -> None:
        mine = {"ceo": tmp_path / "train.jsonl"}
        shutil.copy(data["ceo"], mine["ceo"])
        long = job("ceo", base, mine, tmp_path, max_steps=2000, checkpoint_steps=5)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_until(long, step=12), 60)
        mine["ceo"].write_text(mine["ceo"].read_text().replace("patience", "speed"))
        report = await run_training(job("ceo", base, mine, tmp_path, max_steps=6, checkpoint_steps=5))
        assert report.resumed_from == 0

    async def test_a_cancelled_training_ends_its_process(
        self, base: Path, data: dict[str, Path], tmp_path: Path
    ) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await _until(job("ceo", base, data, tmp_path, max_steps=100_000), step=3)
        # Nobody holds the folder any more.
        assert train(job("ceo", base, data, tmp_path, max_steps=1), lambda _: None).version == 1

    async def test_two_trainings_of_one_adapter_do_not_mix(
        self, base: Path, data: dict[str, Path], tmp_path: Path
    ) -> None:
        begun = asyncio.Event()
        first = asyncio.create_task(
            run_training(job("ceo", base, data, tmp_path, max_steps=100_000), lambda p: begun.set() if p.step else None)
        )
        await asyncio.wait_for(begun.wait(), 60)
        with pytest.raises(TrainingRunning, match="Another process"):
            await run_training(job("ceo", base, data, tmp_path, max_steps=1))
        other = await run_training(job("cfo", base, data, tmp_path, max_steps=1))
        assert other.version == 1
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    def test_the_child_ends_with_its_parent(self, base: Path, data: dict[str, Path], tmp_path: Path) -> None:
        script = (
            "import asyncio,sys\nfrom aos.lora.job import TrainingJob\nfrom aos.lora.process import run_training\n"
            "job = TrainingJob.model_validate_json(sys.argv[1])\n"
            "asyncio.run(run_training(job, lambda p: print(p.step, flush=True)))"
        )
        long = job("ceo", base, data, tmp_path, max_steps=100_000)
        parent = subprocess.Popen(
            [sys.executable, "-c", script, long.model_dump_json()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert parent.stdout is not None
        while int(parent.stdout.readline()) < 3:
            pass
        parent.kill()
        parent.wait()
        parent.stdout.close()
        ends = time.monotonic() + 20
        while time.monotonic() < ends:
            try:
                train(job("ceo", base, data, tmp_path, max_steps=1), lambda _: None)
                return
            except TrainingRunning:
                time.sleep(0.1)
        pytest.fail("the child of a dead parent still trains")


class TestBadInput:
    @pytest.mark.parametrize("name", ["nowhere/at/all", "/nowhere"])
    def test_a_missing_base_says_what_to_do(
        self, name: str, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(BaseModelMissing, match="hf download"):
            train(job("ceo", Path(name), data, tmp_path), lambda _: None)

    def test_unknown_target_modules_are_named_with_the_valid_ones(
        self, base: Path, data: dict[str, Path], tmp_path: Path
    ) -> None:
        wrong = TrainingJob.read(
            "ceo",
            {"model_name": str(base), "data_path": str(data["ceo"]), "output_dir": str(tmp_path)},
            {"target_modules": ["q_proj", "query"]},
        )
        with pytest.raises(TrainingJobInvalid, match=r"no query\..*down_proj.*v_proj; or all-linear"):
            train(wrong, lambda _: None)

    async def test_the_data_is_checked_before_anything_else(self, tmp_path: Path) -> None:
        path = tmp_path / "train.jsonl"
        path.write_text("{}\n")
        with pytest.raises(TrainingDataInvalid, match="line 1"):
            await run_training(TrainingJob.read("ceo", {"model_name": "x", "data_path": str(path)}))

    def test_a_loss_that_is_no_number_ends_the_training(
        self, base: Path, data: dict[str, Path], tmp_path: Path
    ) -> None:
        from transformers import LlamaForCausalLM

        broken = tmp_path / "broken"
        shutil.copytree(base, broken)
        model = LlamaForCausalLM.from_pretrained(str(base))
        model.model.norm.weight.data.fill_(float("nan"))
        model.save_pretrained(str(broken))
        with pytest.raises(TrainingFailed, match=r"nan at step 1: lower params.learning_rate"):
            train(job("ceo", broken, data, tmp_path), lambda _: None)
        assert not versions(tmp_path / "ceo")

    async def test_a_full_disk_is_said(self, base: Path, data: dict[str, Path], tmp_path: Path) -> None:
        script = (
            "import resource, signal, sys\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
            "from aos.lora.process import main\nsys.exit(main())"
        )
        assert resource.RLIMIT_FSIZE >= 0
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(job("ceo", base, data, tmp_path).model_dump_json().encode() + b"\n")
        await child.stdin.drain()
        *_, last = (await asyncio.wait_for(child.stdout.read(), 60)).splitlines()
        child.stdin.close()
        await child.wait()
        assert json.loads(last)["error"] == DiskFull.__name__
        assert "bytes are free" in json.loads(last)["detail"]
        assert not versions(tmp_path / "ceo")


class TestTheRegistry:
    async def test_a_version_is_registered_listed_and_brought_back(
        self, own_storage_settings: Settings, base: Path, trained: Path, tmp_path: Path
    ) -> None:
        account = StorageAccount(own_storage_settings)
        try:
            registry = AdapterRegistry(account)
            folder = find(trained, "ceo")
            first, second = await asyncio.gather(registry.register(folder), registry.register(folder))
            assert sorted((first.version, second.version)) == [1, 2]
            assert [v.version for v in await registry.versions("ceo")] == [1, 2]
            assert [(v.adapter, v.version) for v in await registry.adapters()] == [("ceo", 2)]
            copy = await registry.download(await registry.version("ceo", 1), tmp_path / "copy")
            asked = [{"role": "user", "content": "What is our aim?"}]
            model = AdapterModel(str(base), {"ceo": copy})
            assert model.generate("ceo", asked, max_tokens=60).text == ROLES["ceo"][0][1]
            with pytest.raises(UnknownAdapter, match="it has v1, v2"):
                await registry.version("ceo", 3)
            with pytest.raises(UnknownAdapter, match="none"):
                await registry.version("no'body")
            with pytest.raises(UnknownAdapter, match="not a finished version"):
                await registry.register(tmp_path)
        finally:
            await account.close()


async def _until(long: TrainingJob, step: int) -> None:
    reached = asyncio.Event()
    work = asyncio.create_task(run_training(long, lambda p: reached.set() if p.step >= step else None))
    await asyncio.wait_for(reached.wait(), 60)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    raise TimeoutError
