"""An import's events as server-sent events (WHATWG HTML, 9.2), until it has ended."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Final

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import format_sse_event

from ims_config.records import Progress
from ims_ledger import LedgerUnavailable, NotFound
from ims_producer.client import Client

EVENT_STREAM: Final = "text/event-stream"
LOOK_EVERY_S: Final = 1.0
# Proxies close connections on which nothing is said for a while.
HEARTBEAT_S: Final = 15.0
HEARTBEAT: Final = b": still here\n\n"


async def stream(client: Client, import_id: str, *, after: int) -> AsyncIterator[bytes]:
    """Its events behind event `after` as they come, with its progress in between."""
    shown, said_at = Progress(), time.monotonic()
    while True:
        try:
            # The record first: what it ended with is then among the events.
            record = await run_in_threadpool(client.get, import_id)
            events = await run_in_threadpool(client.events, import_id, after=after)
        except (LedgerUnavailable, NotFound):
            # The client connects again, with the last event it has seen.
            return
        for event in events:
            after = event.id
            yield format_sse_event(
                id=str(event.id), event=event.kind, data_str=event.model_dump_json()
            )
        if record.state.terminal:
            return
        if record.progress != shown:
            shown = record.progress
            yield format_sse_event(
                event="progress", data_str=json.dumps(shown.model_dump(mode="json"))
            )
            said_at = time.monotonic()
        elif events:
            said_at = time.monotonic()
        elif time.monotonic() - said_at >= HEARTBEAT_S:
            yield HEARTBEAT
            said_at = time.monotonic()
        await asyncio.sleep(LOOK_EVERY_S)
