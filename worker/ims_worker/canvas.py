"""The Celery canvas of an import: callbacks, group, chord and the rest of the chain after it.

The ledger keeps it with the import, so that the worker can send a lost poll message, or the next
one, with the same canvas.
"""

import json
from typing import Any

from celery import Celery
from celery.canvas import Signature

from ims_config.names import POLL_IMPORT, POLL_QUEUE
from ims_config.signatures import ImportRef, poll_signature

# An expiry or time limit of the first message must not end the polling.
_DROPPED = ("expires", "time_limit", "soft_time_limit", "retries", "reply_to")


def canvas_of(task: Any, poll: Any) -> str:
    """A poll signature with the canvas of this task, whose import the poll ends."""
    signature = poll.signature_from_request(task.request, args=(), kwargs={}, queue=POLL_QUEUE)
    return _dump(signature)


def canvas_of_chain(app: Celery, request: Any) -> str | None:
    """The poll that follows a submit in its chain, with the rest of the chain."""
    if not request.chain:
        return None
    *rest, following = request.chain
    signature = app.signature(following)
    if signature.task != POLL_IMPORT:
        return None
    return _dump(
        signature.clone().set(chain=rest or None, root_id=request.root_id, parent_id=request.id)
    )


def _dump(signature: Signature) -> str:
    for option in _DROPPED:
        signature.options.pop(option, None)
    return json.dumps(signature)


def poll_again(app: Celery, canvas: str | None, ref: ImportRef, *, retries: int) -> Signature:
    """The next poll message of an import: the same task id, the same canvas."""
    signature = poll_signature(app, ref)
    if canvas:
        # Only options: a canvas may be one that another application sent.
        signature = app.signature(json.loads(canvas)).clone(args=(ref,)).set(**signature.options)
    return signature.set(retries=retries)
