"""Errors of a client beside those of the ledger.

* KeyRefused          the API key is missing, wrong, expired, revoked or lacks a scope or cloud
* ApiUnavailable      the API cannot be reached or cannot use its ledger: try again
* WorkerUnavailable   no worker answers or the queue cannot be reached: try again
* WorkerRefused       a worker answered, and its cloud refused the operation
"""

from collections.abc import Sequence
from typing import Final

from ims_config.settings import PREFIX
from ims_config.worker_reports import CloudError

# What to do about LedgerNotCurrent.
LEDGER_OPTIONS: Final = (
    f"Set {PREFIX}LEDGER_URL to the ledger of the workers, or {PREFIX}API_URL to their HTTP API; "
    "or make this ledger the current one: ims-import ledger adopt"
)


class KeyRefused(Exception):
    """The API does not accept this key for this operation; `problems` has a line for each cause."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems: Sequence[str] = problems


class ApiUnavailable(Exception):
    """The API cannot be reached, or cannot use its ledger or its queue."""


class WorkerUnavailable(Exception):
    """No worker executes the operation: the queue cannot be reached, or no worker answers."""


class WorkerRefused(Exception):
    """A worker was asked, and its cloud refused. `failure` has the code, message and hint."""

    def __init__(self, error: CloudError) -> None:
        super().__init__(str(error))
        self.error = error
        self.failure = error.failure
