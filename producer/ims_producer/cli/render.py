"""How imports, keys, webhooks and deliveries look on a terminal, in a pipe and as JSON."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ims_config.records import Event, ImportRecord, ImportResult, Origin, State
from ims_config.webhooks import endpoint_of
from ims_ledger.api_keys import ApiKey
from ims_ledger.outbox import Delivery
from ims_ledger.webhook_endpoints import Webhook
from ims_producer.cli.durations import format_duration
from ims_producer.waiting import OnProgress

if TYPE_CHECKING:
    from ims_producer.checks import Check

Item = TypeVar("Item", bound=BaseModel)
Row = Mapping[str, str | Text | Table]
"""The cells of a table row by column title."""

BAR_WIDTH: Final = 16
# Lines in a log report progress in steps of this size.
PERCENT_STEP: Final = 25
_STYLES: Final = {
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELED: "red",
    State.WAITING: "yellow",
    State.UNCERTAIN: "yellow",
}
# Wider than any row.
_UNLIMITED: Final = 10_000


def stdout() -> Console:
    return Console(highlight=False)


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


# --- printing -------------------------------------------------------------------------------


def print_json(value: object) -> None:
    """Print a value that may contain models and dataclasses."""
    print(json.dumps(value, default=to_jsonable_python))


def print_result(record: BaseModel, text: str, *, as_json: bool) -> None:
    """Print the changed or created object as JSON, or a text about it."""
    if as_json:
        print_json(record)
    else:
        print(text)


def print_list(
    items: Sequence[Item], row_of: Callable[[Item], Row], *, as_json: bool, empty: str
) -> None:
    """A JSON array, a table, or a note on stderr if there is nothing to list."""
    if as_json:
        print_json(items)
    elif items:
        print_table(_table([row_of(item) for item in items]))
    else:
        print_note(empty)


def print_table(table: Table) -> None:
    """Print a table as wide as its content: the terminal wraps rows, and no id is cut."""
    console = stdout()
    options = console.options.update(width=_UNLIMITED)
    for line in console.render_lines(table, options, pad=False):
        text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
        text.rstrip()
        console.print(text, soft_wrap=True)


def print_details(result: ImportResult) -> None:
    """Print everything a person may want to know about an import, one fact a line."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(result):
        if value not in (None, ""):
            style = _STYLES.get(value, "") if isinstance(value, State) else ""
            time = isinstance(value, datetime)
            text = f"{value:%Y-%m-%d %H:%M:%S UTC}" if time else str(value)
            table.add_row(name, Text(text, style=style))
    if stdout().is_terminal:
        stdout().print(table)
    else:
        print_table(table)


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """Print one line without wrapping or markup, so that it can be searched with grep."""
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)


def print_note(text: str) -> None:
    """Print a line for people to stderr; stdout holds data only."""
    print_line(stderr(), text)


def print_outcome(record: ImportRecord) -> None:
    for line in outcome(record):
        print_note(line)


def print_check(check: "Check") -> None:
    """Print a check of the doctor and, on a second line, its fix."""
    word, style = {True: ("ok", "green"), False: ("FAIL", "red"), None: ("-", "dim")}[check.ok]
    line = Text.assemble((f"{word:<6}", style), f"{check.name:<24}", check.found)
    stdout().print(line, soft_wrap=True)
    if check.fix:
        stdout().print(Text(f"{'':<30}{check.fix}", style="bold"), soft_wrap=True)


# --- progress -------------------------------------------------------------------------------


@contextmanager
def progress(console: Console) -> Iterator[OnProgress]:
    """A callback that shows imports: in a live table on a terminal, otherwise in lines."""
    if not console.is_terminal:
        yield _progress_lines(console)
        return
    # The live table disappears at the end; the caller prints the outcome.
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(records: Sequence[ImportRecord]) -> None:
            if records:
                rows = [_row(record, _bar(record)) for record in records]
                live.update(_table(rows), refresh=True)

        yield show


def _progress_lines(console: Console) -> OnProgress:
    """A callback that prints a line whenever an import changes, for logs and pipes."""
    printed: dict[str, str] = {}

    def show(records: Sequence[ImportRecord]) -> None:
        for record in records:
            line = f"{record.name}: {progress_text(record)}"
            # The caller prints the outcome of a single import next.
            outcome_follows = record.state.terminal and len(records) == 1
            if printed.get(record.id) != line and not outcome_follows:
                printed[record.id] = line
                print_line(console, line)

    return show


def progress_text(record: ImportRecord) -> str:
    """The state of an import in a few words."""
    state = f"{record.state}, cancel requested" if record.canceling else str(record.state)
    if record.poll_error is not None:
        return f"{state}, {record.poll_error}"
    percent = record.progress.percent
    if record.state is State.RUNNING and percent is not None:
        return f"{state} {percent // PERCENT_STEP * PERCENT_STEP:.0f} %"
    if record.state.terminal or not record.reason:
        return state
    return f"{state}: {record.reason}"


# --- tables ---------------------------------------------------------------------------------


def import_row(record: ImportRecord) -> Row:
    return {"id": record.id, **_row(record, _percent(record))}


def _row(record: ImportRecord, progress: str | Table) -> Row:
    return {
        "name": record.name,
        "state": Text(record.state, style=_STYLES.get(record.state, "cyan")),
        "progress": progress,
        "age": format_duration((datetime.now(UTC) - record.created_at).total_seconds()),
        "details": summary(record),
    }


def key_row(key: ApiKey) -> Row:
    expires = "never" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d %H:%M}"
    return {
        "id": key.id,
        "name": key.name,
        "scopes": ", ".join(key.scopes),
        "clouds": _or_all(key.clouds),
        "created": f"{key.created_at:%Y-%m-%d %H:%M}",
        "expires": "revoked" if key.revoked_at else expires,
    }


def webhook_row(webhook: Webhook) -> Row:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": _or_all(webhook.events),
        "clouds": _or_all(webhook.clouds),
    }


def delivery_row(delivery: Delivery) -> Row:
    return {
        "id": delivery.id,
        "import": delivery.import_id,
        "event": delivery.event,
        "state": delivery.state,
        "attempts": str(delivery.attempts),
        "last response": delivery.error or str(delivery.http_status or ""),
        "next": f"{delivery.next_at:%Y-%m-%d %H:%M:%S}" if delivery.next_at else "",
        "endpoint": endpoint_of(delivery.url),
    }


def _table(rows: Sequence[Row]) -> Table:
    """At least one row; all rows have the same titles. Only the last column may wrap."""
    *titles, last = rows[0]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=True)
    table.add_column(last, overflow="fold")
    for row in rows:
        # Text: a string would be parsed as markup.
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row.values()))
    return table


def _or_all(names: Collection[str] | None) -> str:
    return "all" if names is None else ", ".join(names)


def _bar(record: ImportRecord) -> Table | str:
    percent = 100.0 if record.state is State.SUCCEEDED else record.progress.percent
    active = record.state in (State.RUNNING, State.VERIFYING)
    moves = active and record.poll_error is None
    if record.state in (State.FAILED, State.CANCELED) or (percent is None and not moves):
        return ""
    # Without a percentage from the cloud there is no total, and the bar only pulses.
    total = None if percent is None else 100
    cell = Table.grid(padding=(0, 1, 0, 0))
    cell.add_row(ProgressBar(total, percent or 0, width=BAR_WIDTH), Text(_percent(record)))
    return cell


def _percent(record: ImportRecord) -> str:
    if record.state is State.SUCCEEDED:
        return "100 %"
    percent = record.progress.percent
    return "" if percent is None or record.state.terminal else f"{percent:.0f} %"


def _took(record: ImportRecord) -> str:
    if record.state is not State.SUCCEEDED or record.finished_at is None:
        return ""
    seconds = (record.finished_at - record.created_at).total_seconds()
    return f" (took {format_duration(seconds)})"


def summary(record: ImportRecord) -> str:
    """The most important fact: the error, the image, the reason or the job."""
    if record.error and record.state is State.FAILED:
        return str(record.error)
    if record.state is State.SUCCEEDED:
        return f"image {record.image_id}"
    marks = ("cancel requested; " * record.canceling) + ("overdue; " * record.overdue)
    if record.poll_error is not None:
        return f"{marks}{record.poll_error}"
    return marks + (record.reason or (f"job {record.job_id}" if record.job_id else ""))


# --- one import -----------------------------------------------------------------------------


def outcome(record: ImportRecord) -> Iterator[str]:
    """Lines that say how an import ended, or its state and what to do."""
    yield f"{record.name}: {outcome_text(record)}"
    if record.needs_a_person:
        yield f"Decide: ims-import resolve {record.id} --resubmit | --image IMAGE_ID | --fail"
    elif record.error is not None and record.state not in (State.RUNNING, State.SUCCEEDED):
        request = f" (request {record.error.request_id})" if record.error.request_id else ""
        yield f"What to do: {record.error.hint}{request}"
    elif record.poll_error is not None:
        yield f"What to do: {record.poll_error.hint}"


def outcome_text(record: ImportRecord) -> str:
    """The state with its most important fact, on one line."""
    return ", ".join(filter(None, [str(record.state), summary(record)])) + _took(record)


def event_line(event: Event) -> str:
    step = f"{event.from_state or '·'} → {event.to_state}" if event.to_state else event.kind
    reason = f"  {event.reason}" if event.reason else ""
    return f"{event.at:%Y-%m-%d %H:%M:%S}  {step}{reason}"


def _facts(result: ImportResult) -> Iterator[tuple[str, object]]:
    yield "id", result.id
    yield "name", result.name
    yield "state", result.state
    yield "reason", None if result.error else result.reason
    if result.error:
        yield "error", result.error
        yield "what to do", result.error.hint
        yield "request id", result.error.request_id
    if result.poll_error:
        yield "poll error", str(result.poll_error)
        yield "failed polls", result.poll_error.count
        yield "what to do", result.poll_error.hint
    late = "yes, it ended late" if result.state.terminal else "yes, tracking continues"
    yield "overdue", late if result.overdue else None
    image = "deleted" if result.cancel == "delete" else "kept"
    yield "cancel", f"requested; the image is then {image}" if result.canceling else None
    yield "progress", _percent(result)
    yield "file", result.image_url
    yield "origin", result.origin if result.origin is Origin.ADOPTED else None
    yield "kind", result.kind
    yield "cloud", result.cloud
    yield "project", result.project
    yield "job", result.job_id
    yield "image", result.image_id
    if result.image:
        yield "image status", result.image.status
        yield "disk format", result.image.disk_format
    yield "key", result.key
    yield "attempts", result.attempts
    yield "polls", result.polls
    yield "last poll", result.last_poll_at
    yield "next poll", result.next_poll_at
    yield "created", result.created_at
    yield "submitted", result.submitted_at
    yield "finished", result.finished_at
    yield "requested by", result.requested_by
