"""A child process on a leash: its output is read into a log, and it ends when this process does, however that ends."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from emulators.errors import PartFailed

LEASH = Path(__file__).with_name("leash.py")
LOG_BYTES = 2 * 1024 * 1024
TAIL_LINES = 20
LINE_BYTES = 64 * 1024


class Log:
    """A log file of bounded size: at `LOG_BYTES` it becomes `NAME.1`, replacing the one before, and starts afresh."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        if self._file.tell() > LOG_BYTES:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()


class Child:
    """One run of a command.

    Args:
        name: how messages call it.
        command: program and arguments.
        env: its whole environment.
        cwd: its working directory; this process's if None.
        grace: seconds between SIGTERM and SIGKILL when it is stopped.
        log: file for its standard output and error. None: it shares this process's, and `line` and `tail` know nothing.
        held: file descriptors that stay open as long as the command lives, such as that of a lock.
        share_stdin: it reads this process's standard input, else nothing.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        grace: float = 10.0,
        log: Path | None = None,
        held: Iterable[int] = (),
        share_stdin: bool = False,
    ) -> None:
        self.name = name
        self._command = [str(word) for word in command]
        self._env = dict(env)
        self._cwd = cwd
        self._grace = grace
        self._log_path = log
        self._held = tuple(held)
        self._share_stdin = share_stdin
        self._process: Process | None = None
        self._lifeline: int | None = None
        self._reader: asyncio.Task[None] | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._patterns: list[tuple[re.Pattern[str], asyncio.Future[str]]] = []

    async def start(self) -> None:
        """Starts the command; returns at once. A command that does not exist ends with status 127."""
        read, self._lifeline = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(LEASH), str(read), str(self._grace)),
                *("share" if self._log_path is None else "relay", *self._command),
                env=self._env,
                cwd=self._cwd,
                stdin=None if self._share_stdin else DEVNULL,
                stdout=None if self._log_path is None else PIPE,
                stderr=None if self._log_path is None else STDOUT,
                pass_fds=(read, *self._held),
                # Ctrl-C in a terminal reaches the process that runs the stack, which ends its children in order.
                start_new_session=True,
            )
        except BaseException:
            self._cut()
            raise
        finally:
            os.close(read)
        if self._log_path is not None:
            self._reader = asyncio.create_task(self._read(Log(self._log_path)), name=f"output of {self.name}")

    async def _read(self, log: Log) -> None:
        assert self._process is not None and self._process.stdout is not None  # noqa: S101, PT018 - started with a log
        rest = b""
        try:
            while chunk := await self._process.stdout.read(LINE_BYTES):
                log.write(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[-LINE_BYTES:]
                for line in lines:
                    self._take(line.decode("utf-8", "replace"))
            if rest:
                self._take(rest.decode("utf-8", "replace"))
        finally:
            log.close()

    def _take(self, line: str) -> None:
        self._tail.append(line)
        for pattern, found in self._patterns:
            if not found.done() and (match := pattern.search(line)):
                found.set_result(match[0])

    def tail(self) -> str:
        """The last lines of its output."""
        return "\n".join(self._tail)

    def line(self, pattern: str) -> asyncio.Future[str]:
        """What `pattern` matches in the first line of output that holds it; ask before `start`."""
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._patterns.append((re.compile(pattern), found))
        return found

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The process id of the leash."""
        return self._process.pid if self._process else None

    async def wait(self) -> int:
        """Waits for the end of the command and of its output; returns its exit status (128 + n for signal n)."""
        assert self._process is not None  # noqa: S101 - only of a started child
        status = await self._process.wait()
        if self._reader is not None:
            await asyncio.shield(self._reader)
        self._cut()
        return status if status >= 0 else 128 - status

    async def ready(self, condition: asyncio.Future[str], seconds: float) -> str:
        """Waits for `condition`, at most `seconds`, while the command lives.

        Raises:
            PartFailed: it ended or the time was over; the text holds its last output.
        """
        end = asyncio.ensure_future(self.wait())
        either: set[asyncio.Future[str] | asyncio.Future[int]] = {condition, end}
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if condition.done():
                return condition.result()
            how = (
                f"ended with status {end.result()} before it was ready" if end.done() else f"not ready in {seconds:g} s"
            )
        finally:
            condition.cancel()
            end.cancel()
            with suppress(asyncio.CancelledError):
                await end
        where = f"; its log is {self._log_path}" if self._log_path else ""
        output = f", its last output:\n{self.tail()}" if self._tail else ""
        raise PartFailed(f"{self.name}: {how}{where}{output}")

    def send_signal(self, number: int) -> None:
        """Passes a signal on to the command and its group; nothing happens when it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self) -> None:
        """Ends the command: SIGTERM, SIGKILL after the grace, and waits until it is gone. Harmless twice."""
        if self._process is None:
            return
        self._cut()
        try:
            await asyncio.wait_for(asyncio.shield(self._process.wait()), self._grace + 5)
        except TimeoutError:
            self._process.kill()
        await self.wait()

    def _cut(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
