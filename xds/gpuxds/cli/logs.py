"""Logs as events with fields: one JSON object per line for machines, aligned text on a terminal."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum

import structlog
from structlog.typing import EventDict, Processor

from gpuxds.redact import redacted


class LogFormat(StrEnum):
    """How log lines look."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """What is worth a line."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def without_passwords(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Every string of an event, also in its lists, without passwords of URLs."""
    return {name: cleaned(value) for name, value in event.items()}


def cleaned(value: object) -> object:
    """A value without passwords."""
    match value:
        case str():
            return redacted(value)
        case list():
            return [cleaned(item) for item in value]
        case _:
            return value


def configure(style: LogFormat, level: LogLevel) -> None:
    """Set up structlog for the process; logs go to standard error."""
    as_json = style is LogFormat.JSON or (style is LogFormat.AUTO and not sys.stderr.isatty())
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            without_passwords,
            structlog.processors.dict_tracebacks if as_json else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.value.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
