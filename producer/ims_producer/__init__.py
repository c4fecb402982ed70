"""The Python client, the command line and the HTTP API of ims-import.

from ims_producer import Client, ImportRequest
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ims_config.import_request import ImportRequest, InvalidRequest
    from ims_producer.client import Client
    from ims_producer.waiting import StillTracked

__all__ = ["Client", "ImportRequest", "InvalidRequest", "StillTracked"]


# `ims-import --help` must not wait for Celery and SQLAlchemy: modules are imported on first use.
_MODULES: Final = {
    "Client": "ims_producer.client",
    "ImportRequest": "ims_config.import_request",
    "InvalidRequest": "ims_config.import_request",
    "StillTracked": "ims_producer.waiting",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(name)
    return getattr(import_module(_MODULES[name]), name)
