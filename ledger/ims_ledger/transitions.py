"""The arrows of an import's life: which state may follow which."""

from collections.abc import Mapping
from typing import Final

from ims_config.records import State

_S = State

TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    _S.QUEUED: frozenset({_S.SUBMITTING, _S.WAITING, _S.FAILED, _S.CANCELED}),
    # From WAITING to WAITING: the reason has changed.
    _S.WAITING: frozenset({_S.SUBMITTING, _S.WAITING, _S.QUEUED, _S.FAILED, _S.CANCELED}),
    _S.SUBMITTING: frozenset(
        {_S.RUNNING, _S.UNCERTAIN, _S.WAITING, _S.QUEUED, _S.FAILED, _S.CANCELED}
    ),
    _S.UNCERTAIN: frozenset(
        {_S.UNCERTAIN, _S.RUNNING, _S.VERIFYING, _S.QUEUED, _S.WAITING, _S.FAILED, _S.CANCELED}
    ),
    # Back to UNCERTAIN: the cloud no longer knows the job. To WAITING: it failed, and may be tried
    # again.
    _S.RUNNING: frozenset({_S.VERIFYING, _S.UNCERTAIN, _S.WAITING, _S.FAILED, _S.CANCELED}),
    _S.VERIFYING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELED}),
    _S.SUCCEEDED: frozenset(),
    # A new attempt of the same import.
    _S.FAILED: frozenset({_S.QUEUED}),
    _S.CANCELED: frozenset({_S.QUEUED}),
}


def allowed(from_state: State, to: State) -> bool:
    """Whether an import in state `from_state` may be moved to `to`."""
    return to in TRANSITIONS[from_state]
