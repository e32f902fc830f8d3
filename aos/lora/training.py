"""Training of one adapter: runs in a process of its own (`aos.lora.process` starts it) and blocks it.

transformers' Trainer does the work with a PEFT model; this module prepares what it trains on, keeps checkpoints from
which the same training goes on after a crash, evaluates, and puts the result in place as one new version.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aos.lora.card import model_card
from aos.lora.data import Example, read_examples
from aos.lora.errors import BaseModelMissing, DiskFull, TrainingFailed, TrainingJobInvalid, TrainingRunning, need_torch
from aos.lora.job import Progress, TrainingJob, TrainingReport
from aos.lora.tokens import IGNORED, Tokens, encode, load_tokenizer

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

log = logging.getLogger("aos.lora")

REPORT = "training.json"
"""File of a version that holds its `TrainingReport`."""
_CHECKPOINTS = ".checkpoints"
_LOCK = ".training.lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train(job: TrainingJob, tell: Callable[[Progress], None]) -> TrainingReport:
    """Trains an adapter and returns what became of it.

    A training of the same job on the same data that was killed goes on from its last checkpoint.

    Raises:
        ExtraMissing, TrainingDataInvalid, TrainingJobInvalid, BaseModelMissing: Before anything is trained.
        TrainingRunning: Somebody else trains this adapter, in this output folder.
        DiskFull, TrainingFailed: The checkpoints stay.
    """
    need_torch()
    data = read_examples(Path(job.params.data_path))
    training, evaluation = data.split(job.params.eval_fraction if job.params.eval_path is None else 0, job.params.seed)
    if job.params.eval_path is not None:
        evaluation = read_examples(Path(job.params.eval_path)).examples
    with _written(job.folder), _alone(job.folder):
        return _train(job, training, evaluation, data.data_hash, tell)


def _train(
    job: TrainingJob,
    training: Sequence[Example],
    evaluation: Sequence[Example],
    data_hash: str,
    tell: Callable[[Progress], None],
) -> TrainingReport:
    import torch
    from transformers import PrinterCallback, Trainer, set_seed

    began, params = time.monotonic(), job.params
    tell(Progress(phase="loading"))
    set_seed(params.seed)
    tokenizer, base = load_base(params.model_name)
    model = _with_adapter(base, job)
    sets = [[encode(tokenizer, e.messages, params.max_length) for e in part] for part in (training, evaluation)]
    for tokens, example in zip(sets[0], training, strict=True):
        if all(label == IGNORED for label in tokens.labels):
            raise TrainingJobInvalid(f"params.max_length: {params.max_length} tokens leave nothing of {example!r:.80}.")

    checkpoints = job.folder / _CHECKPOINTS
    resume = _checkpoint(checkpoints, job.fingerprint(data_hash))
    reporter = _reporter(tell)
    trainer = Trainer(
        model=model,
        args=_arguments(job, checkpoints, bool(evaluation)),
        train_dataset=_Encoded(sets[0]),
        eval_dataset=_Encoded(sets[1]) if evaluation else None,
        data_collator=_Padding(tokenizer.pad_token_id),
        callbacks=[reporter],
    )
    trainer.remove_callback(PrinterCallback)
    result = trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if losses and not math.isfinite(losses[-1]):
        shutil.rmtree(checkpoints, ignore_errors=True)
        raise TrainingFailed(
            f"The loss became {losses[-1]} at step {trainer.state.global_step}: lower params.learning_rate "
            f"({params.learning_rate}) or config.lora_alpha / config.r ({job.config.lora_alpha} / {job.config.r}), or "
            "check the base model."
        )

    tell(Progress(phase="evaluating", step=trainer.state.global_step, steps=trainer.state.max_steps))
    eval_loss = base_loss = None
    if evaluation:
        eval_loss = float(trainer.evaluate()["eval_loss"])
        with model.disable_adapter(), torch.no_grad():
            base_loss = float(trainer.evaluate()["eval_loss"])
    tell(Progress(phase="saving", step=trainer.state.global_step, steps=trainer.state.max_steps))
    trained, everything = model.get_nb_trainable_parameters()
    version, folder = _next_version(job.folder)
    report = TrainingReport(
        adapter=job.adapter,
        version=version,
        path=str(folder),
        model_name=params.model_name,
        config=job.config,
        params=params,
        examples=len(training),
        eval_examples=len(evaluation),
        data_hash=data_hash,
        steps=trainer.state.global_step,
        epochs=float(trainer.state.epoch or 0),
        first_loss=losses[0] if losses else None,
        train_loss=losses[-1] if losses else float(result.training_loss),
        eval_loss=eval_loss,
        base_eval_loss=base_loss,
        trained_parameters=trained,
        all_parameters=everything,
        resumed_from=0 if resume is None else int(resume.name.rpartition("-")[2]),
        seconds=round(time.monotonic() - began, 3),
        created_at=time.time(),
    )
    _put(folder, model, tokenizer, report)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return report


def load_base(name: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """A base model in full precision on the CPU, in its own on a GPU.

    Raises:
        BaseModelMissing: Says what was looked for.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        tokenizer = load_tokenizer(name)
        dtype = "auto" if torch.cuda.is_available() else torch.float32
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError) as error:
        raise BaseModelMissing(
            f"{name!r} is neither a folder with a model and its tokenizer nor a model that can be fetched: "
            f"{str(error).splitlines()[0][:300]} Download it beforehand (`hf download {name}`), set HF_TOKEN for one "
            "that asks for a licence, or give a folder with `--base`."
        ) from None
    return tokenizer, model


def _with_adapter(base: PreTrainedModel, job: TrainingJob) -> PeftModel:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    linear = {name.rpartition(".")[2] for name, part in base.named_modules() if isinstance(part, torch.nn.Linear)}
    wanted = job.config.target_modules
    unknown = [] if wanted == ("all-linear",) else sorted(set(wanted) - linear)
    if unknown:
        raise TrainingJobInvalid(
            f"config.target_modules: {job.params.model_name} has no {', '.join(unknown)}. "
            f"Its linear layers: {', '.join(sorted(linear - {'lm_head'}))}; or all-linear."
        )
    config = LoraConfig(
        r=job.config.r,
        lora_alpha=job.config.lora_alpha,
        lora_dropout=job.config.lora_dropout,
        target_modules="all-linear" if wanted == ("all-linear",) else list(wanted),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    assert isinstance(model, PeftModel)  # noqa: S101 - get_peft_model also knows mixed models, which need another config
    return model


def _arguments(job: TrainingJob, checkpoints: Path, evaluate: bool) -> Any:
    import torch
    from transformers import TrainingArguments

    params, gpu = job.params, torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=params.epochs,
        max_steps=params.max_steps or -1,
        learning_rate=params.learning_rate,
        per_device_train_batch_size=params.batch_size,
        per_device_eval_batch_size=params.batch_size,
        gradient_accumulation_steps=params.gradient_accumulation,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=params.checkpoint_steps,
        save_total_limit=2,
        eval_strategy="epoch" if evaluate else "no",
        seed=params.seed,
        data_seed=params.seed,
        use_cpu=not gpu,
        bf16=gpu and torch.cuda.is_bf16_supported(),
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
    )


class _Encoded:
    """Encoded examples as a data set."""

    def __init__(self, tokens: Sequence[Tokens]) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> Tokens:
        return self._tokens[index]


class _Padding:
    """Examples of a batch at one length."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, batch: Sequence[Tokens]) -> dict[str, torch.Tensor]:
        import torch

        length = max(len(tokens.input_ids) for tokens in batch)
        return {
            "input_ids": torch.tensor([_padded(t.input_ids, length, self._pad) for t in batch]),
            "attention_mask": torch.tensor([_padded([1] * len(t.input_ids), length, 0) for t in batch]),
            "labels": torch.tensor([_padded(t.labels, length, IGNORED) for t in batch]),
        }


def _padded(values: list[int], length: int, filling: int) -> list[int]:
    return values + [filling] * (length - len(values))


def _reporter(tell: Callable[[Progress], None]) -> TrainerCallback:
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            loss = (logs or {}).get("loss")
            if loss is not None and not math.isfinite(loss):
                control.should_training_stop = True
                return
            tell(
                Progress(
                    phase="training",
                    step=state.global_step,
                    steps=state.max_steps,
                    epoch=float(state.epoch or 0),
                    loss=loss,
                    eval_loss=(logs or {}).get("eval_loss"),
                )
            )

    return Reporter()


def _checkpoint(checkpoints: Path, fingerprint: str) -> Path | None:
    """The last whole checkpoint of the same training; those of another one are removed."""
    mark = checkpoints / "fingerprint"
    if not mark.exists() or mark.read_text() != fingerprint:
        shutil.rmtree(checkpoints, ignore_errors=True)
        checkpoints.mkdir(parents=True)
        mark.write_text(fingerprint)
        return None
    whole = [path for path in checkpoints.glob("checkpoint-*") if _is_whole(path)]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be gone on from: a crash of the machine, or a full disk, leaves empty files."""
    try:
        # The trainer writes its state last.
        json.loads((checkpoint / "trainer_state.json").read_bytes())
    except (OSError, ValueError):
        return False
    return all(path.stat().st_size for path in checkpoint.iterdir() if path.is_file())


def versions(folder: Path) -> dict[int, Path]:
    """The finished versions of an adapter in its folder."""
    found = {}
    for report in folder.glob(f"v*/{REPORT}"):
        if (number := report.parent.name[1:]).isdecimal():
            found[int(number)] = report.parent
    return dict(sorted(found.items()))


def _next_version(folder: Path) -> tuple[int, Path]:
    number = max(versions(folder), default=0) + 1
    return number, folder / f"v{number}"


def _put(folder: Path, model: PeftModel, tokenizer: PreTrainedTokenizerBase, report: TrainingReport) -> None:
    """Writes a version beside its place and moves it there, so that half a version is none."""
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    model.save_pretrained(str(beside))
    tokenizer.save_pretrained(str(beside))
    (beside / "README.md").write_text(model_card(report), encoding="utf-8")
    (beside / REPORT).write_text(report.model_dump_json(indent=2), encoding="utf-8")
    os.replace(beside, folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder of an adapter; the system lets go of it when this process dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainingRunning(f"Another process is training this adapter in {folder}.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        if number in _FULL or any(f"os error {code}" in str(error) for code in _FULL):
            free = shutil.disk_usage(folder).free
            raise DiskFull(
                f"{folder}: {error}; {free} bytes are free. Make room, or give another output folder."
            ) from None
        if isinstance(error, OSError) and error.filename is not None:
            raise TrainingFailed(f"{error.filename}: {error.strerror}.") from None
        raise


def read_report(folder: Path) -> TrainingReport:
    """The report of a version."""
    return TrainingReport.model_validate(json.loads((folder / REPORT).read_text(encoding="utf-8")))
