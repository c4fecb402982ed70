"""What several processes do at the same moment; a module, so that they can import it."""

from datetime import UTC, datetime

from ims_config.records import State
from ims_ledger import ConcurrentTransition, Ledger


def win_a_move(url: str, import_id: str, start: float) -> bool:
    ledger = Ledger(url)
    while datetime.now(UTC).timestamp() < start:
        pass
    try:
        ledger.transitions.move(import_id, from_state=State.QUEUED, to=State.SUBMITTING)
    except ConcurrentTransition:
        return False
    return True


def migrate(url: str) -> bool:
    ledger = Ledger(url)
    ledger.migrate()
    return ledger.is_current()
