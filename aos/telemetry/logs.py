"""Records of logs know what they are about: operation, conversation, agent and trace."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal

from opentelemetry import trace

from aos.errors import SettingError
from aos.telemetry.work import current

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SHORT = ("WARN", "FATAL")
"""Other names of two of them (`logging.getLevelNamesMapping`)."""
_IDS = ("operation_id", "conversation_id", "agent_id", "trace_id", "span_id")


class Ids(logging.Filter):
    """Adds the ids of what the running task works on; lets everything pass. It belongs on handlers.

    Other handlers, such as the exporter to Azure Monitor, get the ids as attributes of the record.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        work = current()
        for name, value in (
            ("operation_id", work.operation_id),
            ("conversation_id", work.conversation_id),
            ("agent_id", work.agent_id),
        ):
            if value and not hasattr(record, name):
                setattr(record, name, value)
        span = trace.get_current_span().get_span_context()
        if span.is_valid and not hasattr(record, "trace_id"):
            record.trace_id, record.span_id = f"{span.trace_id:032x}", f"{span.span_id:016x}"
        return True


class TextFormatter(logging.Formatter):
    """One line for people, with the operation at its end."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        operation_id = getattr(record, "operation_id", None)
        told = line if operation_id is None or operation_id in line else f"{line} [{operation_id}]"
        # Senders choose ids that are logged: what would begin a line of its own, or steer a terminal, is spelled out.
        return told if told.isprintable() else "".join(map(_printable, told))


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (ISO 8601, UTC), level, logger, message, the ids, and the exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _IDS if getattr(record, name, None)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_to_stderr(level: str, form: Literal["text", "json"]) -> None:
    """Sets up the root logger of a program of ours.

    Raises:
        SettingError: There is no such level.
    """
    level = level.strip().upper()
    if level not in (*LEVELS, *_SHORT):
        raise SettingError(f"AOS_LOG_LEVEL: there is no level {level[:20]!r}; use one of {', '.join(LEVELS)}.")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    add_ids()


def add_ids() -> None:
    """Has every handler of the root logger know the ids; those of a host as well. Twice is harmless."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(known, Ids) for known in handler.filters):
            handler.addFilter(Ids())
