"""Engine and transactions of the ledger; translates database errors."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ims_ledger.errors import LedgerOutdated, LedgerUnavailable

BUSY_TIMEOUT_S: Final = 30
CONNECT_TIMEOUT_S: Final = 5
# One connection per worker thread and one for the scheduler, so that none waits for another.
POOL_SIZE: Final = 40

# SQLite has one writer and sleeps up to 0.1 s before it retries a busy database: a lock per
# process is faster.
_WRITERS: Final[WeakKeyDictionary[Engine, Lock]] = WeakKeyDictionary()
_MISSING_TABLE: Final = ("no such table", "no such column", "does not exist", "undefinedtable")


def open_engine(address: str) -> Engine:
    """An engine for SQLite (WAL) or PostgreSQL; creates the folder of an SQLite file."""
    try:
        url = make_url(address)
        return _sqlite(url) if url.get_backend_name() == "sqlite" else _server(url)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as exc:
        # The URL may contain a password, so the message does not repeat it.
        raise LedgerUnavailable(
            "its URL must be sqlite:////PATH or postgresql+psycopg://USER@HOST/DATABASE"
        ) from exc
    except OSError as exc:
        raise LedgerUnavailable(
            f"its folder {exc.filename} cannot be made: {exc.strerror}"
        ) from exc


def _server(url: URL) -> Engine:
    return create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S},
    )


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url, pool_size=POOL_SIZE, max_overflow=0, connect_args={"timeout": BUSY_TIMEOUT_S}
    )
    _WRITERS[engine] = Lock()
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    # _begin starts transactions explicitly.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    # The write-ahead intent must survive a power cut: it prevents a second POST.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    # A read transaction that starts to write may fail immediately; BEGIN IMMEDIATE waits instead.
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def transaction(engine: Engine, *, write: bool) -> Iterator[Connection]:
    """One transaction; database errors become LedgerUnavailable or LedgerOutdated."""
    turn = _WRITERS.get(engine) if write else None
    try:
        with (
            turn or nullcontext(),
            engine.connect().execution_options(write=write) as connection,
            connection.begin(),
        ):
            yield connection
    except (OperationalError, ProgrammingError) as exc:
        text = str(exc.orig).lower()
        if any(word in text for word in _MISSING_TABLE):
            raise LedgerOutdated(
                f"{shown(engine)} has no tables of this version; run: ims-import doctor --migrate"
            ) from exc
        raise LedgerUnavailable(_unreachable(engine, exc)) from exc
    except PoolTimeout as exc:
        raise LedgerUnavailable(f"{shown(engine)}: all connections are in use") from exc
    except DBAPIError as exc:
        if exc.connection_invalidated:
            raise LedgerUnavailable(_unreachable(engine, exc)) from exc
        raise


def _unreachable(engine: Engine, exc: DBAPIError) -> str:
    first = str(exc.orig).strip().splitlines()[:1]
    return (
        f"cannot use the ledger {shown(engine)}: {''.join(first)}; "
        "check IMS_IMPORT_LEDGER_URL and that the database runs"
    )


def shown(engine: Engine) -> str:
    """The URL with its password masked."""
    return engine.url.render_as_string(hide_password=True)
