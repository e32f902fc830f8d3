"""Runs a command that must not outlive its parent: `python -I -S leash.py LIFELINE GRACE OUTPUT COMMAND...`

LIFELINE is the number of an inherited file descriptor: the read end of a pipe whose write end the parent alone holds.
The kernel closes it however the parent ends, `kill -9` included, on every POSIX system; the command then gets SIGTERM
and, GRACE seconds later, SIGKILL. The command leads a process group of its own and signals go to the whole group, so
that its own children end with it. SIGINT, SIGTERM and SIGHUP that arrive here are passed on.

OUTPUT is `share`, or `relay`: the command's output then goes through this process, which drops it once nobody reads
it. A command that wrote to the pipe of a dead parent itself could die of that before it has saved its data.

Exit status: the command's, 128 + n when signal n ended it, 127 when it cannot be started (as shells have it).

This file is run by path and imports the standard library's smallest parts only: it is up in some 15 ms.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_leash() -> None:
    """Where the kernel can (Linux), the command is killed also when this process is killed with -9."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _start(command: list[str], relay: bool) -> tuple[int, int | None]:
    """Starts the command; returns its process id and, to be relayed, the end of its output."""
    output, written = os.pipe() if relay else (None, None)
    parent = os.getpid()
    # A signal for the command must neither be lost to our handlers before the exec nor come before its group exists.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    child = os.fork()
    if child:
        with contextlib.suppress(PermissionError, ProcessLookupError):  # it runs in its group already, or has ended
            os.setpgid(child, child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        if written is not None:
            os.close(written)
        return child, output
    try:
        os.setpgid(0, 0)
        if written is not None:
            os.dup2(written, 1)
            os.dup2(written, 2)
        if sys.platform == "linux":
            _die_with_leash()
            if os.getppid() != parent:  # it died before the kernel was told
                os._exit(1)
        signal.set_wakeup_fd(-1)
        # The lifeline, and whatever else the leash holds, is not the command's.
        os.closerange(3, 1024)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, *PASSED_ON):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        os.execvp(command[0], command)  # noqa: S606 - this is what a leash is for
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        # Gone; or a zombie alone, for which macOS says "not permitted".
        return


def _pass(output: int) -> bool:
    """Relays what there is to read; False at its end."""
    chunk = rest = os.read(output, 65536)
    while rest:
        try:
            rest = rest[os.write(1, rest) :]
        except BrokenPipeError:
            break
    return bool(chunk)


def _watch(child: int, lifeline: int, grace: float, wake: int, output: int | None) -> int:
    deadline: float | None = None
    watched = [wake, lifeline] if output is None else [wake, lifeline, output]
    while True:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select(watched, [], [], timeout)
        if output in readable and not _pass(output):
            watched.remove(output)
        for number in os.read(wake, 64) if wake in readable else b"":
            if number != signal.SIGCHLD:
                _signal_group(child, number)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            _signal_group(child, signal.SIGKILL)  # what the command left behind
            while output in watched and select.select([output], [], [], 0)[0] and _pass(output):
                pass
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if lifeline in readable and not os.read(lifeline, 1):
            watched.remove(lifeline)
            _signal_group(child, signal.SIGTERM)
            deadline = time.monotonic() + grace
        elif deadline is not None and time.monotonic() >= deadline:
            _signal_group(child, signal.SIGKILL)
            deadline = None


def main(arguments: list[str]) -> int:
    lifeline, grace, relay, command = int(arguments[0]), float(arguments[1]), arguments[2] == "relay", arguments[3:]
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *PASSED_ON):
        # The wake-up descriptor carries the number; a handler must exist for it to be written.
        signal.signal(number, lambda *_: None)
    child, output = _start(command, relay)
    return _watch(child, lifeline, grace, wake, output)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
