"""Logs to stderr: a sentence and some facts, as text or JSON, with secrets taken out."""

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from functools import cache
from typing import Any, Final

import structlog

from ims_config.settings import BrokerSettings, unknown_variables

logger = logging.getLogger(__name__)

# Facts with such names never leave the process, whatever library logged them.
_SECRET_NAMES: Final = ("password", "token", "secret", "authorization", "access_key", "api_key")
# Two lines a look would bury the one that says what became of an import.
_EVERY_TASK: Final = ("celery.worker.strategy", "celery.app.trace")
_CHATTY: Final = (
    "keystoneauth", "urllib3", "botocore", "openstack", "stevedore", "dogpile",
    "alembic",
)  # fmt: skip


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the value of every fact whose name is that of a secret."""
    for name in event:
        if any(secret in name.lower() for secret in _SECRET_NAMES):
            event[name] = "***"
    return event


def without_copies(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Drop what repeats the sentence: Celery's with all arguments, uvicorn's with colours."""
    event.pop("data", None)
    event.pop("color_message", None)
    return event


def configure_logging(settings: BrokerSettings) -> None:
    """Send the logs of this process, ours and its libraries', to stderr in one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        without_copies,
        redact,
    ]
    renderer: structlog.typing.Processor = (
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
        # Their debug lines hold request headers, so they are never let through.
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    _warn_of_unknown_variables()


@cache
def _warn_of_unknown_variables() -> None:
    for name, closest in unknown_variables(os.environ).items():
        logger.warning("unknown setting ignored", extra={"variable": name, "closest": closest})


def bind(facts: Mapping[str, Any]) -> None:
    """Facts that every log line of this task carries."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**facts)
