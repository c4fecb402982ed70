"""Appends events of imports and enqueues the webhook messages that they cause."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel
from sqlalchemy import Connection, insert

from ims_config.records import ImportRecord, State
from ims_config.webhooks import WebhookEvent
from ims_ledger import outbox
from ims_ledger.rows import events, read
from ims_ledger.webhook_endpoints import registered

# Transitions that webhook receivers are notified of.
_WEBHOOK_EVENTS: Final = {
    State.RUNNING: WebhookEvent.SUBMITTED,
    State.UNCERTAIN: WebhookEvent.UNCERTAIN,
    State.SUCCEEDED: WebhookEvent.SUCCEEDED,
    State.FAILED: WebhookEvent.FAILED,
    State.CANCELED: WebhookEvent.CANCELED,
}
# What an event or a transition may change beside the state.
FACTS: Final = frozenset(
    {
        "reason", "project", "job_id", "image_id", "error", "image", "submitted_at",
        "finished_at", "attempts", "polls", "overdue", "waits_for", "cancel", "attempted_at",
    }
)  # fmt: skip


def append(
    db: Connection,
    record: ImportRecord,
    kind: str,
    *,
    at: datetime,
    reason: str | None,
    facts: Mapping[str, Any],
    from_state: State | None = None,
    to: State | None = None,
) -> None:
    """Add an event of this import and, in the same transaction, its webhook messages."""
    values = plain(facts, as_json=True)
    values.pop("reason", None)
    added = db.execute(
        insert(events).values(
            import_id=record.id,
            at=at,
            kind=kind,
            from_state=from_state,
            to_state=to,
            reason=reason,
            facts=values,
        )
    )
    event = webhook_event_for(kind, to, facts)
    urls = [] if event is None else receivers(db, record, event)
    if event is not None and urls:
        [number] = added.inserted_primary_key or [0]
        # The record that receivers get is the one after the transition.
        current = read(db, record.id)
        outbox.enqueue(db, current, event, urls, occasion=f"event {number}", at=at)


def webhook_event_for(kind: str, to: State | None, facts: Mapping[str, Any]) -> WebhookEvent | None:
    if kind == "overdue":
        return WebhookEvent.OVERDUE
    if to is State.RUNNING and not facts.get("job_id"):
        # Tracking of a known job resumes: receivers already got SUBMITTED.
        return None
    return None if to is None else _WEBHOOK_EVENTS.get(to)


def receivers(db: Connection, record: ImportRecord, event: WebhookEvent) -> list[str]:
    """URLs that get this event, without duplicates: the request's own and the registered ones."""
    own = record.request.get("webhook_url")
    urls = [webhook.url for webhook in registered(db) if webhook.wants(event, record.cloud)]
    return list(dict.fromkeys([own, *urls] if own else urls))


def plain(facts: Mapping[str, Any], *, as_json: bool = False) -> dict[str, Any]:
    """Facts as column values, or as JSON for an event."""
    if unknown := set(facts) - FACTS:
        raise TypeError(f"no such facts: {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, BaseModel):
            values[name] = value.model_dump(mode="json")
        elif as_json and isinstance(value, datetime):
            values[name] = value.isoformat()
        else:
            values[name] = value
    return values
