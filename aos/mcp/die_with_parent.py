"""Becomes another program that is killed when its parent is: `python -I -S die_with_parent.py PARENT COMMAND...`

Linux only (prctl(2), PR_SET_PDEATHSIG): a server that hangs would not notice the end of its standard input. PARENT is
the process id of the parent, which may have died before the kernel was told. The setting survives `execve` of ordinary
programs; no process of ours stays in between.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the command of the registry's entry, without a shell
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error.strerror}")
