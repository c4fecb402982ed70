"""The worker's app with kill points: a real SIGKILL of the process at named places.

Each place kills while the folder `CHAOS_FOLDER` holds a ticket for it, a file `PLACE.NUMBER`; what
was in hand is written to `kills.jsonl` there first.
"""

import functools
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ims_config.records import State
from ims_ledger.imports import Imports
from ims_ledger.transitions import Transitions
from ims_worker.adapters.otc.ims import ImsService
from ims_worker.adapters.redis.leases import Leases
from ims_worker.adapters.redis.schedule import DueSchedule
from ims_worker.app import app

__all__ = ["app"]

FOLDER: Final = Path(os.environ.get("CHAOS_FOLDER", "."))
# Not always the first that comes by: the tickets are spread over the run.
SHARE: Final = 0.3


def reach(place: str, import_id: str) -> None:
    """Die here, if there is a ticket for this place."""
    if random.random() > SHARE:
        return
    for ticket in FOLDER.glob(f"{place}.*"):
        try:
            ticket.unlink()
        except FileNotFoundError:
            continue
        with (FOLDER / "kills.jsonl").open("a") as kills:
            kills.write(json.dumps({"place": place, "import_id": import_id, "at": time.time()}))
            kills.write("\n")
        os.kill(os.getpid(), signal.SIGKILL)


def deadly(
    owner: Any,
    name: str,
    *,
    before: str | None = None,
    after: str | None = None,
    when: Callable[..., bool] = lambda *_, **__: True,
    who: Callable[..., str] = lambda *args, **_: str(args[1]),
) -> None:
    """Let a method of the product reach a kill point before or after it did its work."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        fits = when(*args, **kwargs)
        if before and fits:
            reach(before, who(*args, **kwargs))
        result = real(*args, **kwargs)
        if after and fits:
            reach(after, who(*args, **kwargs))
        return result

    setattr(owner, name, wrapped)


def to(*states: State) -> Callable[..., bool]:
    return lambda *_, **facts: facts.get("to") in states


def held(_self: Any, hold: Any, **_: Any) -> str:
    return str(hold.import_id)


def asked(_self: Any, _request: Any, *, import_id: str) -> str:
    return import_id


RUNNING: Final = (State.RUNNING,)
ENDED: Final = (State.SUCCEEDED, State.FAILED)

deadly(Transitions, "admit", before="before-intent", after="after-intent")
deadly(ImsService, "create_image", after="after-post", who=asked)
deadly(Transitions, "move", before="before-recording", after="after-recording", when=to(*RUNNING))
deadly(Transitions, "move", after="after-uncertain", when=to(State.UNCERTAIN))
deadly(Transitions, "move", after="after-verifying", when=to(State.VERIFYING))
deadly(ImsService, "read_job", after="after-look", who=lambda *_: "")
deadly(Leases, "reschedule", before="before-next-message", after="while-it-waits", who=held)
deadly(Transitions, "move", before="before-the-end", after="before-the-result", when=to(*ENDED))
deadly(Imports, "mark_reported", before="before-reported")
deadly(DueSchedule, "claim", after="after-claim", who=lambda *_: "")
deadly(DueSchedule, "restore", before="in-the-sweep", who=lambda *_: "")

if os.environ.get("CHAOS_BLIND"):
    # A defect made on purpose: see test_the_suite_notices_a_worker_that_does_not_look_first.
    setattr(ImsService, "images_tagged", lambda *_, **__: [])  # noqa: B010  # mypy forbids to assign it
    setattr(ImsService, "images_named", lambda *_, **__: [])  # noqa: B010  # as above
