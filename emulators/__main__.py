"""`python -m emulators up` and `python -m emulators run -- COMMAND`: the local stack from the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command line; returns the exit status."""
    if sys.platform == "win32":
        print("error: the local stack runs on Linux and macOS; on Windows, use it inside WSL", file=sys.stderr)
        return 1
    try:
        # Imported here, so that Ctrl-C during the imports ends as quietly as later.
        from emulators.command_line import app

        app()
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
