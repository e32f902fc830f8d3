"""Not a server: it says why and ends at once."""

import sys

sys.exit("the database is locked")
