"""The outbox: deliveries are stored with their event, in order, once for each message."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from builders import a_request

from ims_config.records import ErrorClass, Failure, ImportRecord, Progress, State
from ims_config.webhooks import WebhookEvent
from ims_ledger import IllegalTransition, Ledger, NotFound
from ims_ledger.outbox import MOST_AT_ONCE, MOST_AT_ONE_ENDPOINT, DeliveryState, OutgoingMessage
from ims_ledger.webhook_endpoints import OVERLAP

HOOK = "https://ci.example/hook"
LEASE = timedelta(seconds=60)
FAILURE = Failure(code="IMG.0057", message="empty", error_class=ErrorClass.PERMANENT, hint="look")


class Clock:
    """Time stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    ledger = Ledger(url, now=clock)
    ledger.migrate()
    yield ledger
    ledger.close()


def asked(ledger: Ledger, url: str | None = HOOK, cloud: str | None = None) -> ImportRecord:
    return ledger.imports.record(a_request(webhook_url=url, cloud=cloud))[0]


def runs(ledger: Ledger, url: str | None = HOOK, cloud: str | None = None) -> str:
    record = asked(ledger, url, cloud)
    ledger.transitions.move(
        record.id, from_state=State.QUEUED, to=State.SUBMITTING, project="p", attempts=1
    )
    return ledger.transitions.move(
        record.id, from_state=State.SUBMITTING, to=State.RUNNING, job_id="job"
    ).id


def fails(ledger: Ledger, import_id: str) -> None:
    ledger.transitions.move(
        import_id, from_state=State.RUNNING, to=State.FAILED, error=FAILURE, reason="why"
    )


def stored_events(ledger: Ledger, import_id: str | None = None) -> list[str]:
    """Events of the stored deliveries, the oldest first."""
    return [str(one.event) for one in reversed(ledger.outbox.page(import_id=import_id))]


def in_hand(ledger: Ledger) -> list[OutgoingMessage]:
    """What workers have begun to send now."""
    letters = [
        ledger.outbox.begin(claim, lease=LEASE) for claim in ledger.outbox.claim(lease=LEASE)
    ]
    return [letter for letter in letters if letter is not None]


# --- which events are stored ------------------------------------------------------------------


def test_a_receiver_is_told_what_the_import_became_and_how_it_stood_then(ledger: Ledger) -> None:
    import_id = runs(ledger)
    ledger.transitions.add_event(import_id, "overdue", overdue=True, reason="late")
    ledger.transitions.move(
        import_id, from_state=State.RUNNING, to=State.UNCERTAIN, reason="IMS forgot the job"
    )
    ledger.transitions.move(import_id, from_state=State.UNCERTAIN, to=State.RUNNING)
    ledger.transitions.move(import_id, from_state=State.RUNNING, to=State.VERIFYING, image_id="i")
    ledger.transitions.move(import_id, from_state=State.VERIFYING, to=State.SUCCEEDED)

    assert stored_events(ledger) == [
        "import.submitted", "import.overdue", "import.uncertain", "import.succeeded",
    ]  # fmt: skip
    [letter] = in_hand(ledger)
    event = json.loads(letter.body)
    assert event["data"]["state"] == "RUNNING"
    assert event["data"] | {"state": "", "image": None} == event["data"] | {"state": ""}
    assert (event["specversion"], event["type"]) == ("1.0", "import.submitted")
    assert (event["subject"], event["id"]) == (import_id, letter.claim.id)
    assert event["time"] == "2026-01-02T03:04:05Z"
    assert event["datacontenttype"] == "application/json"


def test_failure_and_cancel_are_told(ledger: Ledger) -> None:
    failed, canceled = runs(ledger), asked(ledger).id
    fails(ledger, failed)
    ledger.transitions.cancel(canceled, by="me")

    assert stored_events(ledger, failed) == ["import.submitted", "import.failed"]
    assert stored_events(ledger, canceled) == ["import.canceled"]


def test_a_move_that_does_not_happen_is_not_told(ledger: Ledger) -> None:
    import_id = asked(ledger).id

    with pytest.raises(IllegalTransition):
        ledger.transitions.move(import_id, from_state=State.QUEUED, to=State.SUCCEEDED)

    assert stored_events(ledger) == []


def test_nobody_is_told_where_nobody_asked(ledger: Ledger) -> None:
    import_id = runs(ledger, url=None)
    ledger.transitions.report_progress(import_id, Progress(percent=60, source="ims"))
    fails(ledger, import_id)

    assert stored_events(ledger) == []


def test_progress_is_told_once_for_each_step_of_an_attempt(ledger: Ledger) -> None:
    import_id = runs(ledger)
    for percent in (26.0, 26.0, 30.0, 51.0):
        ledger.transitions.report_progress(import_id, Progress(percent=percent, source="ims"))

    steps = [one for one in ledger.outbox.page() if one.event is WebhookEvent.PROGRESS]
    assert len(steps) == 2


def test_an_adopted_job_is_told_to_those_who_are_told_of_everything(ledger: Ledger) -> None:
    ledger.webhook_endpoints.add(HOOK)

    ledger.imports.adopt("job-1", name="a", cloud=None, by="me")

    assert stored_events(ledger) == ["import.submitted"]


def test_a_webhook_is_told_only_what_it_wants(ledger: Ledger) -> None:
    ledger.webhook_endpoints.add(HOOK, events={WebhookEvent.FAILED}, clouds={"prod"})

    for cloud in ("prod", "test", None):
        fails(ledger, runs(ledger, url=None, cloud=cloud))

    assert stored_events(ledger) == ["import.failed"]


def test_an_address_that_is_named_twice_is_told_once(ledger: Ledger) -> None:
    ledger.webhook_endpoints.add(HOOK)
    ledger.webhook_endpoints.add("https://other.example/")

    runs(ledger)

    assert {one.url for one in ledger.outbox.page()} == {HOOK, "https://other.example/"}
    assert len(stored_events(ledger)) == 2


def test_a_removed_webhook_is_told_nothing_new(ledger: Ledger) -> None:
    webhook = ledger.webhook_endpoints.add(HOOK)
    ledger.webhook_endpoints.remove(webhook.id)

    runs(ledger, url=None)

    assert (ledger.webhook_endpoints.all(), stored_events(ledger)) == ([], [])
    with pytest.raises(NotFound):
        ledger.webhook_endpoints.remove(webhook.id)


# --- order, copies, limits ------------------------------------------------------------------


def test_of_one_import_a_receiver_is_told_in_order(ledger: Ledger, clock: Clock) -> None:
    fails(ledger, runs(ledger))

    [first] = in_hand(ledger)
    assert in_hand(ledger) == []
    ledger.outbox.again(first, 500, "answered 500", after=timedelta(seconds=5))
    assert in_hand(ledger) == []
    clock.now += timedelta(seconds=6)
    [again] = in_hand(ledger)
    assert (again.claim.id, again.body, again.attempts) == (first.claim.id, first.body, 1)
    ledger.outbox.delivered(again, 204)

    [second] = in_hand(ledger)
    assert [first.event, second.event] == ["import.submitted", "import.failed"]


def test_what_was_given_up_lets_the_next_go(ledger: Ledger) -> None:
    fails(ledger, runs(ledger))
    [first] = in_hand(ledger)

    ledger.outbox.given_up(first, None, "refused")

    assert [letter.event for letter in in_hand(ledger)] == ["import.failed"]
    given_up = ledger.outbox.get(first.claim.id)
    assert (given_up.state, given_up.error, given_up.attempts) == ("failed", "refused", 1)


def test_a_late_or_second_copy_of_a_message_sends_nothing(ledger: Ledger) -> None:
    runs(ledger)
    [claim] = ledger.outbox.claim(lease=LEASE)

    letters = [ledger.outbox.begin(claim, lease=LEASE) for _ in range(3)]

    assert [letter is None for letter in letters] == [False, True, True]
    assert letters[0] is not None
    ledger.outbox.delivered(letters[0], 200)
    assert ledger.outbox.begin(letters[0].claim, lease=LEASE) is None


def test_a_message_that_is_lost_is_sent_again_when_its_lease_has_run_out(
    ledger: Ledger, clock: Clock
) -> None:
    runs(ledger)
    [lost] = ledger.outbox.claim(lease=LEASE)
    assert ledger.outbox.claim(lease=LEASE) == []

    clock.now += LEASE

    [claim] = ledger.outbox.claim(lease=LEASE)
    assert (claim.id, claim.generation) == (lost.id, lost.generation + 1)
    assert ledger.outbox.begin(lost, lease=LEASE) is None
    assert ledger.outbox.begin(claim, lease=LEASE) is not None


def test_who_was_overtaken_does_not_decide_what_came_of_it(ledger: Ledger, clock: Clock) -> None:
    runs(ledger)
    [slow] = in_hand(ledger)
    clock.now += LEASE
    [quick] = in_hand(ledger)
    ledger.outbox.delivered(quick, 204)

    ledger.outbox.given_up(slow, None, "too slow")

    assert ledger.outbox.get(slow.claim.id).state is DeliveryState.DELIVERED


def test_one_slow_receiver_holds_few_workers_and_leaves_room_for_others(ledger: Ledger) -> None:
    for _ in range(MOST_AT_ONCE + 5):
        runs(ledger)
    others = [f"https://other-{number}.example/" for number in range(MOST_AT_ONCE)]
    for other in others:
        runs(ledger, url=other)

    first = in_hand(ledger)

    assert len(first) == MOST_AT_ONCE
    assert [letter.url for letter in first].count(HOOK) == MOST_AT_ONE_ENDPOINT
    assert in_hand(ledger) == []
    ledger.outbox.delivered(first[-1], 204)
    assert [letter.url in others for letter in in_hand(ledger)] == [True]


# --- again, and forgetting ------------------------------------------------------------------


def test_a_delivery_can_be_sent_again_as_it_was(ledger: Ledger) -> None:
    runs(ledger)
    [first] = in_hand(ledger)
    ledger.outbox.delivered(first, 204)

    fresh = ledger.outbox.resend(first.claim.id)

    assert (fresh.state, fresh.attempts) == ("pending", 0)
    [again] = in_hand(ledger)
    assert (again.claim.id, again.body) == (first.claim.id, first.body)
    with pytest.raises(NotFound):
        ledger.outbox.resend("msg_none")


def test_an_import_is_not_forgotten_before_its_receivers_know(ledger: Ledger, clock: Clock) -> None:
    import_id = runs(ledger)
    fails(ledger, import_id)
    ledger.imports.mark_reported(import_id)
    clock.now += timedelta(days=1)

    assert ledger.imports.prune(before=clock.now) == 0
    for _ in range(2):
        [letter] = in_hand(ledger)
        ledger.outbox.delivered(letter, 204)
    assert ledger.imports.prune(before=clock.now) == 1
    assert ledger.outbox.page() == []


def test_deliveries_of_other_clouds_are_not_listed(ledger: Ledger) -> None:
    mine, _ = runs(ledger, cloud="mine"), runs(ledger, cloud="theirs")

    assert [one.import_id for one in ledger.outbox.page(clouds=["mine"])] == [mine]


def test_a_rotated_secret_counts_at_once_and_the_old_one_for_a_day(
    ledger: Ledger, clock: Clock
) -> None:
    assert ledger.webhook_endpoints.generations(HOOK) == [1]
    assert ledger.webhook_endpoints.rotate(f"{HOOK}?build=1") == HOOK
    assert ledger.webhook_endpoints.generations(HOOK) == [2, 1]

    clock.now += OVERLAP
    assert ledger.webhook_endpoints.generations(HOOK) == [2]
    ledger.webhook_endpoints.rotate(HOOK)
    assert ledger.webhook_endpoints.generations(HOOK) == [3, 2]
