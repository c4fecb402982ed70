"""Appends events of imports and enqueues the webhook messages that they cause."""

from datetime import datetime

from sqlalchemy import Connection, insert

from ims_config.records import ImportRecord, State
from ims_config.webhooks import WebhookEvent, webhook_event_for
from ims_ledger import outbox
from ims_ledger.changes import Changes, as_facts
from ims_ledger.rows import events, read
from ims_ledger.webhook_endpoints import registered


def append(
    db: Connection,
    record: ImportRecord,
    kind: str,
    *,
    at: datetime,
    reason: str | None,
    changes: Changes,
    from_state: State | None = None,
    to: State | None = None,
) -> None:
    """Add an event of this import and, in the same transaction, its webhook messages."""
    added = db.execute(
        insert(events).values(
            import_id=record.id,
            at=at,
            kind=kind,
            from_state=from_state,
            to_state=to,
            reason=reason,
            facts=as_facts(changes),
        )
    )
    event = webhook_event_for(kind, to, new_job=changes.get("job_id") is not None)
    urls = [] if event is None else receivers(db, record, event)
    if event is not None and urls:
        [number] = added.inserted_primary_key or [0]
        # The record that receivers get is the one after the transition.
        current = read(db, record.id)
        if "poll_error" in changes:
            # The poll that caused the event is the last one, and its count is known.
            last = {"poll_error": changes["poll_error"], "last_poll_at": at}
            current = current.model_copy(update=last)
        outbox.enqueue(db, current, event, urls, occasion=f"event {number}", at=at)


def receivers(db: Connection, record: ImportRecord, event: WebhookEvent) -> list[str]:
    """URLs that get this event, without duplicates: the request's own and the registered ones."""
    own = (record.request or {}).get("webhook_url")
    urls = [webhook.url for webhook in registered(db) if webhook.wants(event, record.cloud)]
    return list(dict.fromkeys([own, *urls] if own else urls))
