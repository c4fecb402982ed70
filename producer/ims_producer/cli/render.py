"""How imports, keys, webhooks and deliveries look on a terminal, in a pipe and as JSON."""

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ims_config.records import Event, ImportRecord, ImportResult, State
from ims_config.webhooks import endpoint_of
from ims_ledger.api_keys import ApiKey
from ims_ledger.outbox import Delivery
from ims_ledger.webhook_endpoints import Webhook
from ims_producer.cli.durations import format_duration
from ims_producer.waiting import OnProgress

if TYPE_CHECKING:
    from ims_producer.checks import Check

Item = TypeVar("Item", bound=BaseModel)

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


def print_json(model: BaseModel | Sequence[BaseModel], **extra: Sequence[BaseModel] | None) -> None:
    """A record as an object, several as an array; `extra` adds arrays to an object."""
    if isinstance(model, BaseModel):
        added = {name: _dump(items) for name, items in extra.items() if items is not None}
        print(json.dumps(model.model_dump(mode="json") | added))
    else:
        print(json.dumps(_dump(model)))


def _dump(models: Sequence[BaseModel]) -> list[dict[str, object]]:
    return [model.model_dump(mode="json") for model in models]


def print_list(
    items: Sequence[Item],
    table_of: Callable[[Sequence[Item]], Table],
    *,
    as_json: bool,
    empty: str,
) -> None:
    """A JSON array, a table, or a note on stderr if there is nothing to list."""
    if as_json:
        print_json(items)
    elif items:
        print_table(table_of(items))
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
            table.add_row(name, Text(str(value), style=style))
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
        yield ProgressLines(console).show
        return
    # The live table disappears at the end; the caller prints the outcome.
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(records: Sequence[ImportRecord]) -> None:
            if records:
                live.update(import_table(records, bars=True), refresh=True)

        yield show


class ProgressLines:
    """Prints a line whenever an import changes, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed: dict[str, str] = {}

    def show(self, records: Sequence[ImportRecord]) -> None:
        for record in records:
            if record.state.terminal and len(records) == 1:
                # The caller prints the outcome next.
                continue
            line = f"{record.name}: {progress_text(record)}"
            if self._printed.get(record.id) != line:
                self._printed[record.id] = line
                print_line(self._console, line)


def progress_text(record: ImportRecord) -> str:
    """The state of an import in a few words."""
    percent = record.progress.percent
    if record.state is State.RUNNING and percent is not None:
        return f"{record.state} {percent // PERCENT_STEP * PERCENT_STEP:.0f} %"
    if record.state.terminal or not record.reason:
        return str(record.state)
    return f"{record.state}: {record.reason}"


# --- tables ---------------------------------------------------------------------------------


def import_list(records: Sequence[ImportRecord]) -> Table:
    return import_table(records, bars=False, ids=True)


def import_table(records: Sequence[ImportRecord], *, bars: bool, ids: bool = False) -> Table:
    """Imports as rows."""
    table = _table(*(("id",) if ids else ()), "name", "state", "progress", "age")
    table.add_column("details", overflow="fold")
    for record in records:
        table.add_row(
            *([Text(record.id)] if ids else []),
            Text(record.name),
            Text(str(record.state), style=_STYLES.get(record.state, "cyan")),
            _bar(record) if bars else Text(_percent(record)),
            Text(_age(record)),
            Text(summary(record)),
        )
    return table


def key_table(keys: Sequence[ApiKey]) -> Table:
    """API keys as rows."""
    table = _table("id", "name", "scopes", "clouds", "created", "expires")
    for key in keys:
        expires = "never" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d %H:%M}"
        table.add_row(
            key.id,
            Text(key.name),
            ", ".join(key.scopes),
            _or_all(key.clouds),
            f"{key.created_at:%Y-%m-%d %H:%M}",
            "revoked" if key.revoked_at else expires,
        )
    return table


def webhook_table(webhooks: Sequence[Webhook]) -> Table:
    """Webhooks as rows."""
    table = _table("id", "url", "events", "clouds")
    for webhook in webhooks:
        table.add_row(
            webhook.id, Text(webhook.url), _or_all(webhook.events), _or_all(webhook.clouds)
        )
    return table


def delivery_table(deliveries: Sequence[Delivery]) -> Table:
    """Deliveries to webhooks as rows."""
    table = _table(
        "id", "import", "event", "state", "attempts", "last response", "next", "endpoint"
    )
    for delivery in deliveries:
        table.add_row(
            delivery.id,
            delivery.import_id,
            str(delivery.event),
            str(delivery.state),
            str(delivery.attempts),
            Text(delivery.error or str(delivery.http_status or "")),
            f"{delivery.next_at:%Y-%m-%d %H:%M:%S}" if delivery.next_at else "",
            Text(endpoint_of(delivery.url)),
        )
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table


def _or_all(names: Collection[str] | None) -> str:
    return "all" if names is None else ", ".join(names)


def _bar(record: ImportRecord) -> Table | Text:
    if record.state.terminal and record.state is not State.SUCCEEDED:
        return Text("")
    percent = 100.0 if record.state is State.SUCCEEDED else record.progress.percent
    # Without a percentage from the cloud the bar only pulses.
    active = record.state in (State.RUNNING, State.VERIFYING)
    if percent is None and not active:
        return Text("")
    bar = ProgressBar(
        total=None if percent is None else 100,
        completed=percent or 0,
        width=BAR_WIDTH,
        pulse=percent is None,
        animation_time=time.monotonic(),
    )
    cell = Table.grid(padding=(0, 1, 0, 0))
    cell.add_row(bar, Text(_percent(record)))
    return cell


def _percent(record: ImportRecord) -> str:
    if record.state is State.SUCCEEDED:
        return "100 %"
    percent = record.progress.percent
    return "" if percent is None or record.state.terminal else f"{percent:.0f} %"


def _age(record: ImportRecord) -> str:
    end = record.finished_at or datetime.now(UTC)
    return format_duration((end - record.created_at).total_seconds())


def summary(record: ImportRecord) -> str:
    """The most important fact: the error, the image, the reason or the job."""
    if record.error and record.state is State.FAILED:
        return f"{record.error.code}: {record.error.message}"
    if record.state is State.SUCCEEDED:
        return f"image {record.image_id}"
    overdue = "overdue; " if record.overdue else ""
    return overdue + (record.reason or (f"job {record.job_id}" if record.job_id else ""))


# --- one import -----------------------------------------------------------------------------


def outcome(record: ImportRecord) -> Iterator[str]:
    """Lines that say how an import ended, or its state and what to do."""
    yield f"{record.name}: {outcome_text(record)}"
    if record.needs_a_person:
        yield f"Decide: ims-import resolve {record.id} --resubmit | --image IMAGE_ID | --fail"
    elif record.error is not None and record.state not in (State.RUNNING, State.SUCCEEDED):
        request = f" (request {record.error.request_id})" if record.error.request_id else ""
        yield f"What to do: {record.error.hint}{request}"


def outcome_text(record: ImportRecord) -> str:
    """The state with its most important fact, on one line."""
    age = f" ({_age(record)})" if record.state is State.SUCCEEDED else ""
    return ", ".join(filter(None, [str(record.state), summary(record)])) + age


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
        yield "error", f"{result.error.code}: {result.error.message}"
        yield "what to do", result.error.hint
        yield "request id", result.error.request_id
    late = "yes, it ended late" if result.state.terminal else "yes, tracking continues"
    yield "overdue", late if result.overdue else None
    yield "progress", _percent(result)
    yield "file", result.image_url
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
    yield "created", _moment(result.created_at)
    yield "submitted", _moment(result.submitted_at)
    yield "finished", _moment(result.finished_at)
    yield "requested by", result.requested_by


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.strftime("%Y-%m-%d %H:%M:%S UTC")
