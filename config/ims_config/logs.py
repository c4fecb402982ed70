"""Logging of every process: one format on stderr, text or JSON, with secrets redacted."""

import logging
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from ims_config.settings import BrokerSettings, unknown_variables

logger = logging.getLogger(__name__)

# Facts with these names are redacted, no matter which library logs them.
_SECRET_NAMES: Final = ("password", "token", "secret", "authorization", "access_key", "api_key")
# Two lines per poll would bury the line that reports the outcome of an import.
_EVERY_TASK: Final = ("celery.worker.strategy", "celery.app.trace")
_CHATTY: Final = (
    "keystoneauth", "urllib3", "botocore", "openstack", "stevedore", "dogpile",
    "alembic",
)  # fmt: skip


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Redact facts that are named like secrets."""
    for name in event:
        if any(secret in name.lower() for secret in _SECRET_NAMES):
            event[name] = "***"
    return event


def drop_duplicates(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Remove copies of the message: Celery's holds all arguments, uvicorn's has colours."""
    event.pop("data", None)
    event.pop("color_message", None)
    return event


def configure_logging(settings: BrokerSettings) -> None:
    """Write all logs of this process, including those of libraries, to stderr in one format."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        drop_duplicates,
        redact,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in _EVERY_TASK:
        logging.getLogger(name).setLevel(
            root.level if root.level <= logging.DEBUG else max(logging.WARNING, root.level)
        )
    for name in _CHATTY:
        # Their debug lines contain request headers.
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    _warn_of_unknown_variables()


@cache
def _warn_of_unknown_variables() -> None:
    for name, closest in unknown_variables(os.environ).items():
        logger.warning("unknown setting ignored", extra={"variable": name, "closest": closest})


def bind(facts: Mapping[str, object]) -> None:
    """Set the facts that every further log line of this task contains."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**facts)
