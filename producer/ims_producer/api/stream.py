"""Streams the events of an import as server-sent events (WHATWG HTML, 9.2) until it ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import format_sse_event

from ims_config.records import Progress
from ims_ledger import NotFound, Unavailable
from ims_producer.backends.direct import DirectBackend

EVENT_STREAM: Final = "text/event-stream"
READ_EVERY_S: Final = 1.0
# Proxies close idle connections.
HEARTBEAT_S: Final = 15.0
HEARTBEAT: Final = b": heartbeat\n\n"


async def event_stream(
    backend: DirectBackend, import_id: str, *, after: int
) -> AsyncIterator[bytes]:
    """The events behind event `after` as they occur, and the progress between them."""
    sent, sent_at = Progress(), time.monotonic()
    while True:
        try:
            # The record is read first, so that the events include the one that ended it.
            record = await run_in_threadpool(backend.get, import_id)
            events = await run_in_threadpool(backend.events, import_id, after=after)
        except (NotFound, Unavailable):
            # The client reconnects with the id of the last event it received.
            return
        for event in events:
            after = event.id
            yield format_sse_event(
                id=str(event.id), event=event.kind, data_str=event.model_dump_json()
            )
        if record.state.terminal:
            return
        if record.progress != sent:
            sent, sent_at = record.progress, time.monotonic()
            yield format_sse_event(event="progress", data_str=sent.model_dump_json())
        elif events:
            sent_at = time.monotonic()
        elif time.monotonic() - sent_at >= HEARTBEAT_S:
            yield HEARTBEAT
            sent_at = time.monotonic()
        await asyncio.sleep(READ_EVERY_S)
