"""Not a server: it reads and never answers."""

import sys

sys.stdin.read()
