"""Who asks: the Python client and the command line of ims-import.

from ims_producer import Client, ImportRequest
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ims_config.import_request import ImportRequest, InvalidRequest
    from ims_producer.client import Client
    from ims_producer.waiting import StillTracked

__all__ = ["Client", "ImportRequest", "InvalidRequest", "StillTracked"]


def __getattr__(name: str) -> Any:
    # `ims-import --help` must not wait for Celery and SQLAlchemy.
    if name in ("ImportRequest", "InvalidRequest"):
        from ims_config import import_request  # noqa: PLC0415  # see above

        return getattr(import_request, name)
    if name in ("Client", "StillTracked"):
        from ims_producer import client  # noqa: PLC0415  # see above

        return getattr(client, name)
    raise AttributeError(name)
