"""The canvas of an import: the callbacks, group, chord and rest of chain that hang on its end.

It is kept in the ledger with the import, so that a poll message that was lost, or that ended with
"look again", can be sent anew with all that hung on the first one.
"""

import json
from typing import Any

from celery import Celery
from celery.canvas import Signature

from ims_config.names import POLL_IMPORT, POLL_QUEUE
from ims_config.signatures import ImportRef, poll_signature

# An expiry or time limit set for the first message must not end the polling.
_NOT_KEPT = ("expires", "time_limit", "soft_time_limit", "retries", "reply_to")


def canvas_of(task: Any, poll: Any) -> str:
    """The poll that ends this task's import, with all that hangs on the task itself."""
    signature = poll.signature_from_request(task.request, args=(), kwargs={}, queue=POLL_QUEUE)
    return _kept(signature)


def canvas_of_chain(app: Celery, request: Any) -> str | None:
    """The poll that follows in the chain of a submit, with the rest of the chain behind it."""
    if not request.chain:
        return None
    *rest, following = request.chain
    signature = app.signature(following)
    if signature.task != POLL_IMPORT:
        return None
    return _kept(
        signature.clone().set(chain=rest or None, root_id=request.root_id, parent_id=request.id)
    )


def _kept(signature: Signature) -> str:
    for option in _NOT_KEPT:
        signature.options.pop(option, None)
    return json.dumps(signature)


def poll_again(app: Celery, canvas: str | None, ticket: ImportRef, *, retries: int) -> Signature:
    """The next poll message of an import: the same task id, the same canvas."""
    signature = app.signature(json.loads(canvas)) if canvas else poll_signature(app, ticket["id"])
    signature = signature.clone(args=(ticket,))
    return signature.set(task_id=ticket["id"], retries=retries, queue=POLL_QUEUE)
