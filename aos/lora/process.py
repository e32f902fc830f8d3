"""A training in a process of its own: it takes minutes to days, holds gigabytes, and may be killed.

The child reads its job from stdin, writes progress and its outcome as JSON lines to stdout, and ends when its parent
does. It takes no lock of the parent and leaves checkpoints, so that the same training can be started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from aos.errors import AosError
from aos.lora import errors
from aos.lora.job import Progress, TrainingJob, TrainingReport

LINE = 1024 * 1024
TAIL = 4000
"""Characters kept of what a child that died had written to stderr."""
GRACE = 5.0


class Told(BaseModel):
    kind: Literal["progress"] = "progress"
    progress: Progress


class Ended(BaseModel):
    kind: Literal["report"] = "report"
    report: TrainingReport


class Failed(BaseModel):
    kind: Literal["error"] = "error"
    error: str
    detail: str


Line = Told | Ended | Failed
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])


async def run_training(job: TrainingJob, tell: Callable[[Progress], None] | None = None) -> TrainingReport:
    """Trains in a child process; cancelling this call ends it.

    Raises:
        As `aos.lora.training.train`; `TrainingFailed` with what it wrote last if the child died.
    """
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aos.lora.process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LINE,
        # The child finds what this process finds, also from another working directory.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TOKENIZERS_PARALLELISM": "false"},
    )
    assert child.stdin is not None  # noqa: S101 - asked for above
    assert child.stdout is not None  # noqa: S101
    assert child.stderr is not None  # noqa: S101
    noise = asyncio.create_task(_tail(child.stderr), name="stderr of a training")
    outcome: Line | None = None
    try:
        child.stdin.write(job.model_dump_json().encode() + b"\n")
        await child.stdin.drain()
        async for line in child.stdout:
            outcome = _LINE.validate_json(line)
            if isinstance(outcome, Told) and tell is not None:
                tell(outcome.progress)
        await child.wait()
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            try:
                await asyncio.wait_for(child.wait(), GRACE)
            except TimeoutError:
                child.kill()
                await child.wait()
        child.stdin.close()
        said = await noise
    if isinstance(outcome, Ended):
        return outcome.report
    if isinstance(outcome, Failed):
        kind = getattr(errors, outcome.error, errors.TrainingFailed)
        error: AosError = kind(outcome.detail)
        raise error
    status = child.returncode or 0
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else "ended"
    raise errors.TrainingFailed(
        f"The process that trained {job.adapter!r} {how} (status {status}); start the same training again to "
        f"go on from its last checkpoint. It wrote last: {said or 'nothing'}"
    )


async def _tail(stream: asyncio.StreamReader) -> str:
    tail = b""
    while chunk := await stream.read(65536):
        tail = (tail + chunk)[-TAIL:]
    return tail.decode(errors="replace").strip()


def main() -> int:
    """The child: one job in, lines out."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to stderr
    job = TrainingJob.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def write(line: Line) -> None:
        out.write(line.model_dump_json() + "\n")
        out.flush()

    from aos.lora.training import train

    try:
        write(Ended(report=train(job, lambda progress: write(Told(progress=progress)))))
    except AosError as error:
        write(Failed(error=type(error).__name__, detail=error.detail))
        return 1
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(143)


if __name__ == "__main__":
    raise SystemExit(main())
