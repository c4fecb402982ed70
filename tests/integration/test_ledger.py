"""What is remembered: the same promises on SQLite and on PostgreSQL."""

import multiprocessing
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from builders import a_request
from racing import migrate, win_a_move

from ims_config import import_request
from ims_config.import_request import InvalidRequest
from ims_config.records import (
    ErrorClass,
    Failure,
    ImageFacts,
    Origin,
    PollError,
    State,
    WaitsFor,
)
from ims_ledger import (
    ConcurrentTransition,
    Conflict,
    IllegalTransition,
    InvalidState,
    KeyConflict,
    Ledger,
    LedgerError,
    LedgerOutdated,
    LedgerUnavailable,
    NotFound,
    open_ledger,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
FAILURE = Failure(code="IMG.0057", message="empty", error_class=ErrorClass.PERMANENT, hint="look")


def a_running(ledger: Ledger, job_id: str = "job") -> str:
    record, _ = ledger.imports.record(a_request())
    ledger.transitions.move(
        record.id, from_state=State.QUEUED, to=State.SUBMITTING, project="p", attempts=1
    )
    return ledger.transitions.move(
        record.id, from_state=State.SUBMITTING, to=State.RUNNING, job_id=job_id
    ).id


def test_a_request_is_remembered_as_it_was_asked(ledger: Ledger) -> None:
    request = a_request(tags={"team": "a"})

    record, created = ledger.imports.record(request, key="k", requested_by="me")

    assert created
    assert ledger.imports.get(record.id).model_dump() == record.model_dump() | {"image": None}
    assert (record.state, record.key, record.requested_by) == (State.QUEUED, "k", "me")
    assert record.request == request.as_message()
    assert record.created_at.tzinfo is not None


def test_an_unknown_id_is_no_such_import(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="no such import: nobody"):
        ledger.imports.get("nobody")


def test_the_same_key_and_request_are_the_same_import(ledger: Ledger) -> None:
    first, _ = ledger.imports.record(a_request(), key="k")

    second, created = ledger.imports.record(a_request(), key="k")

    assert (second.id, created) == (first.id, False)


def test_the_same_key_with_another_request_is_a_conflict(ledger: Ledger) -> None:
    ledger.imports.record(a_request(), key="k")

    with pytest.raises(KeyConflict, match="key 'k' belongs to a different request"):
        ledger.imports.record(a_request(name="other"), key="k")


def test_one_key_at_the_same_moment_is_one_import(ledger: Ledger) -> None:
    with ThreadPoolExecutor(20) as threads:
        answers = list(
            threads.map(lambda _: ledger.imports.record(a_request(), key="k"), range(20))
        )

    assert len({record.id for record, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1


def test_a_move_is_remembered_with_its_event(ledger: Ledger) -> None:
    import_id = a_running(ledger)

    ledger.transitions.move(
        import_id, from_state=State.RUNNING, to=State.FAILED, error=FAILURE, reason="why", polls=3
    )

    record = ledger.imports.get(import_id)
    assert (record.state, record.reason, record.polls) == (State.FAILED, "why", 3)
    assert record.error == FAILURE
    assert record.finished_at is not None
    assert [(event.from_state, event.to_state) for event in ledger.imports.events(import_id)] == [
        (None, State.QUEUED),
        (State.QUEUED, State.SUBMITTING),
        (State.SUBMITTING, State.RUNNING),
        (State.RUNNING, State.FAILED),
    ]
    assert ledger.imports.events(import_id)[-1].facts["error"]["code"] == "IMG.0057"


def test_every_error_has_a_kind_and_fields(ledger: Ledger) -> None:
    record, _ = ledger.imports.record(a_request(), key="k")
    errors = [
        (NotFound, lambda: ledger.imports.get("x")),
        (NotFound, lambda: ledger.api_keys.revoke("x")),
        (NotFound, lambda: ledger.webhook_endpoints.remove("x")),
        (NotFound, lambda: ledger.outbox.get("x")),
        (Conflict, lambda: ledger.imports.record(a_request(name="other"), key="k")),
        (Conflict, lambda: ledger.transitions.retry(record.id, by="me")),
    ]
    caught = []
    for kind, act in errors:
        with pytest.raises(LedgerError) as error:
            act()
        assert isinstance(error.value, kind)
        caught.append(error.value)

    not_found = [(error.kind, error.id) for error in caught if isinstance(error, NotFound)]
    assert not_found == [(kind, "x") for kind in ("import", "key", "webhook", "delivery")]
    assert {error.current.id for error in caught if isinstance(error, Conflict)} == {record.id}


def test_a_missing_item_is_still_one_behind_celery() -> None:
    # Celery stores the class and `args` of an exception, and calls the one with the other.
    error = NotFound("delivery", "x")

    assert str(NotFound(*error.args)) == str(error)


def test_an_opened_sqlite_ledger_is_migrated(sqlite_url: str) -> None:
    ledger = open_ledger(sqlite_url)

    assert ledger.is_current()
    ledger.close()


def test_events_can_be_read_on_from_the_last_one_seen(ledger: Ledger) -> None:
    import_id = a_running(ledger)
    first, *rest = ledger.imports.events(import_id)

    assert ledger.imports.events(import_id, after=first.id) == rest


def test_a_success_keeps_the_image_and_clears_the_error(ledger: Ledger) -> None:
    import_id = a_running(ledger)
    ledger.transitions.move(
        import_id, from_state=State.RUNNING, to=State.VERIFYING, image_id="i", error=FAILURE
    )

    ledger.transitions.move(
        import_id,
        from_state=State.VERIFYING,
        to=State.SUCCEEDED,
        image=ImageFacts(id="i", tags=("a=b",)),
    )

    assert ledger.imports.get(import_id).image == ImageFacts(id="i", tags=("a=b",))
    assert ledger.imports.get(import_id).error is None


def test_a_move_from_another_state_is_stale(ledger: Ledger) -> None:
    import_id = a_running(ledger)

    with pytest.raises(ConcurrentTransition) as caught:
        ledger.transitions.move(import_id, from_state=State.QUEUED, to=State.SUBMITTING)

    assert caught.value.current.state is State.RUNNING


def test_a_move_of_another_version_is_stale(ledger: Ledger) -> None:
    import_id = a_running(ledger)

    with pytest.raises(ConcurrentTransition):
        ledger.transitions.move(import_id, from_state=State.RUNNING, to=State.VERIFYING, version=1)


def test_an_arrow_that_does_not_exist_is_refused(ledger: Ledger) -> None:
    import_id = a_running(ledger)

    with pytest.raises(IllegalTransition):
        ledger.transitions.move(import_id, from_state=State.RUNNING, to=State.SUCCEEDED)

    assert ledger.imports.get(import_id).state is State.RUNNING


def test_one_of_many_threads_wins_a_move(ledger: Ledger) -> None:
    record, _ = ledger.imports.record(a_request())

    def won(_: int) -> bool:
        try:
            ledger.transitions.move(record.id, from_state=State.QUEUED, to=State.SUBMITTING)
        except ConcurrentTransition:
            return False
        return True

    with ThreadPoolExecutor(20) as threads:
        assert sum(threads.map(won, range(20))) == 1


def test_one_of_many_processes_wins_a_move(ledger: Ledger, url: str) -> None:
    record, _ = ledger.imports.record(a_request())
    start = datetime.now(UTC).timestamp() + 2

    with multiprocessing.get_context("spawn").Pool(4) as pool:
        wins = pool.starmap(win_a_move, [(url, record.id, start)] * 4)

    assert sum(wins) == 1


def test_many_processes_may_migrate_at_once(url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(6) as pool:
        assert all(pool.map(migrate, [url] * 6))


def test_each_ledger_has_one_id_for_all_processes(url: str, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(6) as pool:
        pool.map(migrate, [url] * 6)
    first, second = Ledger(url), Ledger(url)
    other = open_ledger(f"sqlite:///{tmp_path / 'other.db'}")

    assert first.id == second.id
    assert uuid.UUID(other.id) != uuid.UUID(first.id)
    for ledger in (first, second, other):
        ledger.close()


def test_a_ledger_without_tables_says_what_to_do(url: str) -> None:
    ledger = Ledger(url)

    assert not ledger.is_current()
    with pytest.raises(LedgerOutdated, match="ims-import doctor --migrate"):
        ledger.imports.counts()
    ledger.close()


DIES_AFTER_COMMIT = """
import os, signal, sys
sys.path[:0] = {path!r}
from builders import a_request
from racing import migrate, win_a_move
from ims_ledger import Ledger
Ledger({url!r}).imports.record(a_request(), import_id="survivor")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_committed_survives_the_process(ledger: Ledger, url: str) -> None:
    code = DIES_AFTER_COMMIT.format(path=sys.path, url=url)

    died = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ | {"CI": ""})

    assert died.returncode == -signal.SIGKILL
    assert ledger.imports.get("survivor").state is State.QUEUED


def test_a_name_is_found_however_its_characters_are_composed(ledger: Ledger) -> None:
    record, _ = ledger.imports.record(a_request(name="Bu\u0308ro"))

    assert record.name == "B\u00fcro"
    for name in ("Bu\u0308ro", "B\u00fcro"):
        assert [found.id for found in ledger.imports.page(name=name)] == [record.id]
        assert [found.id for found in ledger.imports.named([name])] == [record.id]


def test_pages_go_from_the_newest_to_the_oldest(url: str) -> None:
    clock = iter(NOON + timedelta(seconds=second) for second in range(99))
    ledger = Ledger(url, now=lambda: next(clock))
    ledger.migrate()
    ids = [ledger.imports.record(a_request(name=f"n{number}"))[0].id for number in range(5)]

    first = ledger.imports.page(limit=2)
    second = ledger.imports.page(limit=9, before=first[-1].id)

    assert [record.id for record in first + second] == ids[::-1]
    ledger.close()


@pytest.mark.parametrize(
    "filters", [{"states": [State.RUNNING]}, {"name": "mine"}, {"cloud": "otc"}], ids=str
)
def test_a_list_can_be_filtered(ledger: Ledger, filters: dict) -> None:  # type: ignore[type-arg]
    ledger.imports.record(a_request())
    mine, _ = ledger.imports.record(a_request(name="mine", cloud="otc"))
    ledger.transitions.move(mine.id, from_state=State.QUEUED, to=State.SUBMITTING)
    ledger.transitions.move(mine.id, from_state=State.SUBMITTING, to=State.RUNNING)

    assert [record.id for record in ledger.imports.page(**filters)] == [mine.id]


def test_an_import_that_may_have_a_job_occupies_a_slot_until_it_ends(ledger: Ledger) -> None:
    a_running(ledger)
    ended = a_running(ledger)
    ledger.transitions.move(ended, from_state=State.RUNNING, to=State.FAILED)
    record, _ = ledger.imports.record(a_request())
    waits = ledger.transitions.admit(
        record.id, version=record.version, project="p", limit=1, why=lambda active, _: str(active)
    )

    assert (waits.state, waits.reason) == (State.WAITING, "1")
    assert ledger.transitions.next_in_line("p", limit=1) == []
    assert ledger.transitions.next_in_line("p", limit=2) == [record.id]
    assert ledger.transitions.next_in_line("other", limit=2) == []
    assert ledger.imports.counts() == {State.RUNNING: 1, State.FAILED: 1, State.WAITING: 1}


def test_a_note_is_an_event_without_a_move(ledger: Ledger) -> None:
    import_id = a_running(ledger)
    before = ledger.imports.get(import_id)

    ledger.transitions.add_event(import_id, "overdue", overdue=True, reason="late")

    record = ledger.imports.get(import_id)
    assert (record.overdue, record.state, record.version) == (True, State.RUNNING, before.version)
    assert (
        ledger.imports.events(import_id)[-1].kind,
        ledger.imports.events(import_id)[-1].reason,
    ) == (
        "overdue",
        "late",
    )


def test_an_import_is_open_until_its_end_was_reported(ledger: Ledger) -> None:
    import_id = a_running(ledger)
    ledger.transitions.move(import_id, from_state=State.RUNNING, to=State.FAILED)
    assert [record.id for record in ledger.imports.unreported()] == [import_id]

    ledger.imports.mark_reported(import_id)

    assert ledger.imports.is_reported(import_id)
    assert ledger.imports.unreported() == []


def test_open_imports_are_walked_in_pages(ledger: Ledger) -> None:
    ids = sorted(ledger.imports.record(a_request())[0].id for _ in range(5))

    first = [record.id for record in ledger.imports.unreported(limit=3)]

    assert first == ids[:3]
    assert [record.id for record in ledger.imports.unreported(after=first[-1])] == ids[3:]


def test_the_canvas_is_kept_with_the_import(ledger: Ledger) -> None:
    import_id = a_running(ledger)
    ledger.imports.save_canvas(import_id, "{}")

    [(record, canvas)] = ledger.imports.with_canvases([import_id, "nobody"]).values()

    assert (record.id, canvas) == (import_id, "{}")


@pytest.mark.parametrize(
    "address",
    [
        lambda tmp: f"sqlite:///{tmp}",
        lambda _: "postgresql+psycopg://me:s3cret@127.0.0.1:1/none",
    ],
    ids=["sqlite", "postgres"],
)
def test_a_ledger_out_of_reach_says_so_without_the_password(
    address: Callable[[object], str], tmp_path: object
) -> None:
    ledger = Ledger(address(tmp_path))

    with pytest.raises(LedgerUnavailable, match="IMS_IMPORT_LEDGER_URL") as caught:
        ledger.imports.counts()

    assert "s3cret" not in str(caught.value)
    ledger.close()


def test_imports_that_resume_wakes_wait_for_a_person_or_have_failing_polls(ledger: Ledger) -> None:
    failure = PollError(
        code="IAM.0001", message="m", error_class=ErrorClass.AUTH, hint="h", since=NOON, count=1
    )
    polled, fine = a_running(ledger, "job-1"), a_running(ledger, "job-2")
    ledger.transitions.report_poll_error(polled, failure)
    waiting = {}
    for waits_for in WaitsFor:
        record, _ = ledger.imports.record(a_request(cloud="prod"))
        ledger.transitions.move(
            record.id, from_state=State.QUEUED, to=State.WAITING, reason="r", waits_for=waits_for
        )
        waiting[waits_for] = record.id
    person, credentials = waiting[WaitsFor.PERSON], waiting[WaitsFor.CREDENTIALS]

    assert ledger.imports.held_up({None}) == {polled: State.RUNNING}
    assert set(ledger.imports.held_up({"prod"})) == {person, credentials}
    assert set(ledger.imports.held_up({None, "prod"})) == {polled, person, credentials}
    assert ledger.imports.held_up({"other"}) == {}
    assert fine not in ledger.imports.held_up({None})


def test_the_record_of_an_adopted_import_has_no_request(ledger: Ledger) -> None:
    record, _ = ledger.imports.adopt("job-1", name="by-hand", cloud="prod", by="me")

    assert (record.origin, record.state, record.name) == (Origin.ADOPTED, State.RUNNING, "by-hand")
    assert (record.request, record.image_url, record.kind) == (None, None, None)
    assert ledger.imports.get(record.id).request is None
    assert ledger.imports.page(tag=("team", "a")) == []


@pytest.mark.parametrize(("name", "cloud"), [("", None), ("a", "no\nsuch"), ("a\nb", None)])
def test_an_adopted_import_has_a_valid_name_and_cloud(
    ledger: Ledger, name: str, cloud: str | None
) -> None:
    with pytest.raises(InvalidRequest):
        ledger.imports.adopt("job-1", name=name, cloud=cloud, by="me")

    assert ledger.imports.page() == []


def test_a_request_stored_in_an_older_shape_is_read_in_the_current_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older shape and its upgrade are invented: the first release stores version 1."""
    old = ledger.imports.record(a_request(min_disk=41))[0]
    monkeypatch.setattr(import_request, "REQUEST_VERSION", 3)
    monkeypatch.setattr(
        import_request,
        "UPGRADES",
        {
            1: lambda stored: stored | {"min_disk": stored["min_disk"] + 1},
            2: lambda stored: stored | {"description": f"{stored['min_disk']} GB"},
        },
    )

    upgraded = ledger.imports.get(old.id).request

    assert upgraded is not None
    assert (upgraded["min_disk"], upgraded["description"]) == (42, "42 GB")


def test_a_request_of_a_newer_version_is_read_unchanged() -> None:
    assert import_request.upgrade_request({"sizes": [1]}, 99) == {"sizes": [1]}


def test_an_adopted_import_cannot_be_sent_again(ledger: Ledger) -> None:
    record, _ = ledger.imports.adopt("job-1", name="by-hand", cloud=None, by="me")
    ledger.transitions.move(record.id, from_state=State.RUNNING, to=State.UNCERTAIN)

    with pytest.raises(InvalidState, match="an adopted import has no request to send again"):
        ledger.transitions.resolve(record.id, to=State.QUEUED, by="me")

    ledger.transitions.resolve(record.id, to=State.FAILED, by="me")
    with pytest.raises(InvalidState, match="an adopted import has no request to send again"):
        ledger.transitions.retry(record.id, by="me")
    assert ledger.imports.get(record.id).state is State.FAILED
