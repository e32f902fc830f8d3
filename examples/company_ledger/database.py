"""The ledger's SQLite file: where it lies, how it comes to be, how it is opened.

Money is kept in whole cents. A connection lives for one call: tools run on several threads and several servers may
share the file, and opening costs a tenth of a millisecond.
"""

from __future__ import annotations

import csv
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

DATA = Path(__file__).parent / "data"
SCHEMA_VERSION = 1
BUSY_SECONDS = 10.0

_SCHEMA = """
CREATE TABLE accounts (code TEXT PRIMARY KEY, name TEXT NOT NULL, department TEXT NOT NULL REFERENCES departments,
    type TEXT NOT NULL CHECK (type IN ('revenue', 'cost_of_sales', 'operating_expense'))) STRICT;
CREATE TABLE departments (id TEXT PRIMARY KEY, name TEXT NOT NULL, responsible TEXT NOT NULL) STRICT;
CREATE TABLE transactions (id INTEGER PRIMARY KEY AUTOINCREMENT, date TEXT NOT NULL,
    account TEXT NOT NULL REFERENCES accounts, department TEXT NOT NULL REFERENCES departments,
    cents INTEGER NOT NULL, description TEXT NOT NULL) STRICT;
CREATE INDEX transactions_by_date ON transactions (date);
CREATE TABLE budgets (year INTEGER, quarter INTEGER, department TEXT REFERENCES departments, cents INTEGER NOT NULL,
    PRIMARY KEY (department, year, quarter)) STRICT;
CREATE TABLE headcount (year INTEGER, quarter INTEGER, department TEXT REFERENCES departments, heads INTEGER NOT NULL,
    PRIMARY KEY (department, year, quarter)) STRICT;
CREATE TABLE customers (year INTEGER, quarter INTEGER, active INTEGER NOT NULL, won INTEGER NOT NULL,
    lost INTEGER NOT NULL, PRIMARY KEY (year, quarter)) STRICT;
"""
_TABLES = ("departments", "accounts", "transactions", "budgets", "headcount", "customers")


class LedgerUnusable(Exception):
    """The database file cannot be used as a ledger; the text names the file and the remedy."""


def default_path() -> Path:
    """`$COMPANY_LEDGER_DB`, else `aos-company-ledger/ledger.db` in the user's state folder (XDG base directories)."""
    if named := os.environ.get("COMPANY_LEDGER_DB"):
        return Path(named).expanduser()
    # The XDG specification tells programs to ignore a path that is not absolute.
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    folder = state if state.is_absolute() else Path.home() / ".local" / "state"
    return folder / "aos-company-ledger" / "ledger.db"


def to_cents(amount: str) -> int:
    return int(Decimal(amount) * 100)


class Ledger:
    """The ledger in the file `path`, filled from the data set when the file does not exist yet.

    Raises:
        LedgerUnusable: the file is no ledger of this version, or cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _create(path)
            except OSError as error:
                raise LedgerUnusable(
                    f"cannot create the ledger {path}: {error}; set COMPANY_LEDGER_DB to a file in a writable folder"
                ) from error
        try:
            with self.open() as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise LedgerUnusable(
                f"{path} cannot be read as a ledger ({error}); move it away or set COMPANY_LEDGER_DB"
            ) from error
        if version != SCHEMA_VERSION:
            raise LedgerUnusable(
                f"{path} has ledger version {version}, this program needs {SCHEMA_VERSION};"
                " move the file away to start afresh"
            )

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one piece of work: committed at the end, rolled back on an error, closed in any case."""
        with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as connection, connection:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection


def _create(path: Path) -> None:
    """Builds the file aside and links it into place: of servers that start at once, one wins and none sees half."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(aside)) as connection:
            # Readers and the writer do not block each other; the mode stays with the file.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            with connection:
                for table in _TABLES:
                    _fill(connection, table)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        try:
            os.link(aside, path)
        except FileExistsError:
            return
    finally:
        aside.unlink(missing_ok=True)


def _fill(connection: sqlite3.Connection, table: str) -> None:
    with (DATA / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            values: dict[str, str | int] = {
                "cents" if name == "amount" else name: to_cents(text) if name == "amount" else text
                for name, text in row.items()
            }
            columns, marks = ", ".join(values), ", ".join("?" * len(values))
            connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", list(values.values()))  # noqa: S608
