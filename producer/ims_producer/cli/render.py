"""How imports look on a terminal, and as plain lines where there is none."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ims_config.records import ImportRecord, ImportResult, State
from ims_config.webhooks import endpoint_of
from ims_ledger.api_keys import ApiKey
from ims_ledger.outbox import Delivery
from ims_ledger.webhook_endpoints import Webhook

REFRESH_S: Final = 0.25
SLOWEST_REFRESH_S: Final = 1.0
BAR_WIDTH: Final = 24
# Plain lines tell of progress in such steps.
PERCENT_STEP: Final = 25
_STYLES: Final = {
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELED: "red",
    State.WAITING: "yellow",
    State.UNCERTAIN: "yellow",
}
# Wider than any row: a pipe has no width to fit into.
_ENDLESS: Final = 10_000
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400


class Reader(Protocol):
    """Who knows how an import stands: the client."""

    def get(self, import_id: str) -> ImportResult: ...


# --- following ------------------------------------------------------------------------------


def follow(
    console: Console,
    reader: Reader,
    ids: Sequence[str],
    *,
    enough: Callable[[ImportResult], bool] = lambda result: result.settled,
    timeout: float | None = None,
) -> list[ImportResult]:
    """Show imports until `enough` holds for each, or for `timeout` seconds; how they stand then."""
    if not console.is_terminal:
        return _followed(reader, ids, Lines(console).show, enough, timeout)
    # What is shown while it moves is gone at the end: the caller says how it ended.
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(results: Sequence[ImportRecord]) -> None:
            live.update(table(results, bars=True), refresh=True)

        return _followed(reader, ids, show, enough, timeout)


def _followed(
    reader: Reader,
    ids: Sequence[str],
    show: Callable[[Sequence[ImportRecord]], None],
    enough: Callable[[ImportResult], bool],
    timeout: float | None,
) -> list[ImportResult]:
    end = None if timeout is None else time.monotonic() + timeout
    pause, results = REFRESH_S, list[ImportResult]()
    while True:
        results = _onwards(results, [reader.get(import_id) for import_id in ids])
        show(results)
        if all(enough(result) for result in results):
            return results
        if end is not None and time.monotonic() >= end:
            return results
        time.sleep(pause if end is None else max(0.0, min(pause, end - time.monotonic())))
        pause = min(pause * 1.1, SLOWEST_REFRESH_S)


R = TypeVar("R", bound=ImportRecord)


def _onwards(before: Sequence[R], now: Sequence[R]) -> list[R]:
    """Readings whose percent never falls behind what was shown: Redis may have forgotten it."""
    shown = {record.id: record.progress.percent for record in before}
    return [
        record.model_copy(
            update={"progress": record.progress.model_copy(update={"percent": shown[record.id]})}
        )
        if _less(record.progress.percent, shown.get(record.id)) and not record.state.terminal
        else record
        for record in now
    ]


def _less(percent: float | None, shown: float | None) -> bool:
    return shown is not None and (percent is None or percent < shown)


class Lines:
    """A line whenever something changed, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, str] = {}

    def show(self, records: Sequence[ImportRecord]) -> None:
        for record in records:
            if record.state.terminal and len(records) == 1:
                # How the only one ended is what is said next anyway.
                continue
            line = f"{record.name}: {standing(record)}"
            if self._said.get(record.id) != line:
                self._said[record.id] = line
                say(self._console, line)


def standing(record: ImportRecord) -> str:
    """How an import stands, in a few words."""
    percent = record.progress.percent
    if record.state is State.RUNNING and percent is not None:
        return f"{record.state} {percent // PERCENT_STEP * PERCENT_STEP:.0f} %"
    if record.state.terminal or not record.reason:
        return str(record.state)
    return f"{record.state}: {record.reason}"


# --- tables ---------------------------------------------------------------------------------


def table(records: Sequence[ImportRecord], *, bars: bool, ids: bool = False) -> Table:
    """Imports as rows."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in (*(("id",) if ids else ()), "name", "state", "progress", "age"):
        made.add_column(title, no_wrap=True)
    made.add_column("what is known")
    for record in records:
        cells = [
            Text(record.name),
            Text(str(record.state), style=_STYLES.get(record.state, "cyan")),
            _bar(record) if bars else Text(_percent(record)),
            Text(_age(record)),
            Text(known(record)),
        ]
        made.add_row(*([Text(record.id)] if ids else []), *cells)
    return made


def key_table(keys: Sequence[ApiKey]) -> Table:
    """API keys as rows."""
    made = _plain_table("id", "name", "scopes", "clouds", "created", "expires")
    for key in keys:
        expires = "never" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d %H:%M}"
        made.add_row(
            key.id,
            Text(key.name),
            ", ".join(key.scopes),
            "all" if key.clouds is None else ", ".join(key.clouds),
            f"{key.created_at:%Y-%m-%d %H:%M}",
            "revoked" if key.revoked_at else expires,
        )
    return made


def webhook_table(webhooks: Sequence[Webhook]) -> Table:
    """Who is told of imports, as rows."""
    made = _plain_table("id", "url", "events", "clouds")
    for webhook in webhooks:
        made.add_row(
            webhook.id,
            Text(webhook.url),
            "all" if webhook.events is None else ", ".join(webhook.events),
            "all" if webhook.clouds is None else ", ".join(webhook.clouds),
        )
    return made


def delivery_table(deliveries: Sequence[Delivery]) -> Table:
    """What receivers were told, as rows."""
    made = _plain_table(
        "id", "import", "event", "state", "tries", "last answer", "next", "endpoint"
    )
    for delivery in deliveries:
        answer = str(delivery.http_status or "")
        made.add_row(
            delivery.id,
            delivery.import_id,
            str(delivery.event),
            str(delivery.state),
            str(delivery.attempts),
            Text(delivery.error or answer),
            f"{delivery.next_at:%Y-%m-%d %H:%M:%S}" if delivery.next_at else "",
            Text(endpoint_of(delivery.url)),
        )
    return made


def _plain_table(*titles: str) -> Table:
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in titles:
        made.add_column(title, no_wrap=True)
    return made


def print_table(console: Console, made: Table) -> None:
    """Print a table; into a pipe as wide as it takes, without padding at the ends of lines."""
    if console.is_terminal:
        console.print(made)
        return
    lines = console.render_lines(made, console.options.update(width=_ENDLESS), pad=False)
    for line in lines:
        print("".join(segment.text for segment in line).rstrip(), file=console.file)


def _bar(record: ImportRecord) -> Table | Text:
    if record.state.terminal and record.state is not State.SUCCEEDED:
        return Text("")
    percent = 100.0 if record.state is State.SUCCEEDED else record.progress.percent
    # Without a percent of the cloud's own a bar would be a lie: it only shows that it runs.
    runs = record.state in (State.RUNNING, State.VERIFYING)
    if percent is None and not runs:
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
    return duration(((record.finished_at or datetime.now(UTC)) - record.created_at).total_seconds())


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(0, int(seconds))
    for unit, name, below, below_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name}" + (f" {rest} {below_name}" if rest else "")
    return f"{whole} s"


def known(record: ImportRecord) -> str:
    """The most telling thing that is known: the error, the image, the reason, the job."""
    if record.error and record.state is State.FAILED:
        return f"{record.error.code}: {record.error.message}"
    if record.state is State.SUCCEEDED:
        return f"image {record.image_id}"
    flag = "overdue; " if record.overdue else ""
    return flag + (record.reason or (f"job {record.job_id}" if record.job_id else ""))


# --- one import -----------------------------------------------------------------------------


def outcome(record: ImportRecord) -> Iterator[str]:
    """How an import ended or stands, with what to do about it, a line each."""
    if record.state is State.SUCCEEDED:
        yield f"{record.name}: SUCCEEDED, image {record.image_id} ({_age(record)})"
        return
    yield f"{record.name}: {record.state}" + (f", {known(record)}" if known(record) else "")
    if record.needs_a_person:
        yield f"Decide: ims-import resolve {record.id} --resubmit | --image IMAGE_ID | --fail"
    elif record.error is not None and record.state is not State.RUNNING:
        request = f" (request {record.error.request_id})" if record.error.request_id else ""
        yield f"What to do: {record.error.hint}{request}"


def details(result: ImportResult) -> Table:
    """All of an import that a person may want to know, line by line."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in _facts(result):
        if value not in (None, ""):
            style = _STYLES.get(value, "") if isinstance(value, State) else ""
            made.add_row(name, Text(str(value), style=style))
    return made


def _facts(result: ImportResult) -> Iterator[tuple[str, object]]:
    yield "id", result.id
    yield "name", result.name
    yield "state", result.state
    yield "reason", None if result.error else result.reason
    if result.error:
        yield "error", f"{result.error.code}: {result.error.message}"
        yield "what to do", result.error.hint
        yield "request id", result.error.request_id
    late = "it ended late" if result.state.terminal else "yes, it is still tracked"
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


def say(console: Console, text: str, style: str | None = None) -> None:
    """A line as it is: not wrapped, no markup, for people and for grep."""
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)
