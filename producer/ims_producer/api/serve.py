"""Runs the API with uvicorn in the foreground."""

import ipaddress
from typing import Final

import uvicorn

from ims_config.logs import configure_logging
from ims_config.settings import ApiSettings
from ims_producer.api.app import make_app

# Clients of event streams would keep the process alive; they reconnect.
GRACE_S: Final = 5


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(settings: ApiSettings, *, host: str, port: int, auth: bool) -> None:
    """Run until SIGTERM or Ctrl-C."""
    configure_logging(settings)
    uvicorn.run(
        make_app(settings, auth=auth),
        host=host,
        port=port,
        log_config=None,
        access_log=settings.log_level == "DEBUG",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
