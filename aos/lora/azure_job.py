"""A training as it runs on a node of Azure Machine Learning: `python -m aos.lora.azure_job`.

The job is in `AOS_TRAINING_JOB`; where its data, its base model and its output lie on the node is in the arguments. It
trains on the node's own disk, because mounted storage has neither file locks nor atomic renames.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from aos.errors import AosError
from aos.lora.job import Progress, TrainingJob

JOB = "AOS_TRAINING_JOB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains and puts the files of the adapter into `--output`; status 1 after a line on stderr that says why not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--base")
    parser.add_argument("--eval")
    there = parser.parse_args(arguments)
    asked = TrainingJob.model_validate_json(os.environ[JOB])

    from aos.lora.card import model_card
    from aos.lora.training import REPORT, train

    with tempfile.TemporaryDirectory() as disk:
        here = {"data_path": there.data, "output_dir": disk, "eval_path": there.eval}
        if there.base:
            here["model_name"] = there.base
        job = asked.model_copy(update={"params": asked.params.model_copy(update=here)})
        try:
            report = train(job, _tell)
        except AosError as error:
            print(f"{type(error).__name__}: {error.detail}", file=sys.stderr, flush=True)
            return 1
        made, output = Path(report.path), Path(there.output)
        # What the node calls its data and its base means nothing elsewhere.
        named = {"params": asked.params, "model_name": asked.params.model_name, "path": "."}
        report = report.model_copy(update=named)
        (made / REPORT).write_text(report.model_dump_json(indent=2), encoding="utf-8")
        (made / "README.md").write_text(model_card(report), encoding="utf-8")
        shutil.copytree(made, output, dirs_exist_ok=True)
    return 0


def _tell(progress: Progress) -> None:
    print(progress.model_dump_json(exclude_none=True), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
