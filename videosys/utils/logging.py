"""The package's logger: silent until `configure_logging`; log lines do not break progress bars."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, TextIO

from tqdm import tqdm

from videosys.utils.streams import Steady

ROOT = "videosys"


def get_logger(name: str = ROOT) -> logging.Logger:
    """Return the package's logger, or a child of it (`get_logger("hub")` is `videosys.hub`)."""
    return logging.getLogger(name if name.split(".")[0] == ROOT else f"{ROOT}.{name}")


def log(logger: logging.Logger, message: str, /, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log a message with fields, which are printed as `key=value` or as keys of a JSON line."""
    logger.log(level, message, extra={"fields": fields})


def configure_logging(
    *, quiet: bool = False, verbose: bool = False, json_lines: bool = False, stream: TextIO | None = None
) -> logging.Logger:
    """Make the package's logger print to `stream` (default: standard error), and return it.

    `quiet` logs only errors, `verbose` adds details. A second call replaces the first.
    """
    logger = get_logger()
    for handler in [handler for handler in logger.handlers if isinstance(handler, _BarHandler)]:
        logger.removeHandler(handler)
    handler = _BarHandler(stream)
    handler.setFormatter(JsonFormatter() if json_lines else KeyValueFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    return logger


class KeyValueFormatter(logging.Formatter):
    """`12:34:56 warning videosys.hub: message key=value`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line: time, level, logger, message, then key=value for each field."""
        level = record.levelname.lower()
        time = self.formatTime(record, "%H:%M:%S")
        fields = "".join(f" {key}={_word(value)}" for key, value in _fields(record).items())
        return f"{time} {level} {record.name}: {record.getMessage()}{fields}{_trace(self, record)}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (seconds), level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON with the record's fields."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() + _trace(self, record),
        }
        return json.dumps({**_fields(record), **line}, default=str, ensure_ascii=False)


class _BarHandler(logging.Handler):
    """Prints lines above the progress bar."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self.stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream: Any = Steady(self.stream or sys.stderr)
            tqdm.write(self.format(record), file=stream)
        except Exception:
            self.handleError(record)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def _word(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if not text or set(text) & set(' "=\n\t\r') else text


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return "\n" + formatter.formatException(record.exc_info) if record.exc_info else ""
