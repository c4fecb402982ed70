"""The wait loop of clients: reads imports until they settle, with back-off and progress."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from ims_config.records import ImportResult

# A bad file fails at once, so the first reads are frequent.
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 1.0
BACKOFF: Final = 1.2

OnProgress = Callable[[Sequence[ImportResult]], None]


class StillTracked(TimeoutError):
    """The wait ended before the import settled. The import continues; `record` is its state."""

    def __init__(self, record: ImportResult) -> None:
        super().__init__(f"import {record.id} is still {record.state}")
        self.record = record


def wait_until_settled(
    get: Callable[[str], ImportResult],
    import_ids: Sequence[str],
    *,
    timeout: float | None = None,
    on_progress: OnProgress = lambda _: None,
) -> list[ImportResult]:
    """Return the imports once all have settled, or as they are after `timeout` seconds.

    `on_progress` receives all imports after each read.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = FIRST_PAUSE_S
    results = [get(import_id) for import_id in import_ids]
    on_progress(results)
    while not all(result.settled for result in results):
        if deadline is not None:
            pause = min(pause, deadline - time.monotonic())
        if pause <= 0:
            break
        time.sleep(pause)
        pause = min(pause * BACKOFF, LONGEST_PAUSE_S)
        results = [_next(get, result) for result in results]
        on_progress(results)
    return results


def _next(get: Callable[[str], ImportResult], last: ImportResult) -> ImportResult:
    if last.state.terminal:
        return last
    result = get(last.id)
    known, percent = last.progress.percent, result.progress.percent
    # Progress is kept in Redis, which may lose it: what is reported never moves backwards.
    if (
        result.state.terminal
        or result.poll_error
        or known is None
        or (percent is not None and percent >= known)
    ):
        return result
    progress = result.progress.model_copy(update={"percent": known})
    return result.model_copy(update={"progress": progress})
