"""One import, step by step, with a simulated cloud and a clock that the test sets."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from builders import a_body
from fakes import FakeClouds, FakeCooldowns, a_failure, busy, refused
from ims_client import PROJECT
from simulated_ims import SimulatedIms
from sqlalchemy import text, update

from ims_config.import_request import REQUEST_VERSION, parse_request
from ims_config.records import ErrorClass, ImportResult, State
from ims_ledger import InvalidState, Ledger
from ims_ledger.rows import imports
from ims_sandbox.cloud.faults import Kind
from ims_worker.decisions import PollingPolicy
from ims_worker.errors import LoginRefused, NotSent
from ims_worker.importer import Importer
from ims_worker.ports import CloudJob, JobId, JobStatus
from ims_worker.steps import Finished, PollAgain, PollState

QUICK_SETTINGS = PollingPolicy(
    first=timedelta(seconds=10),
    longest=timedelta(seconds=60),
    settle=timedelta(minutes=5),
    deadline=timedelta(hours=6),
)


class Clock:
    """Time stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Scenario:
    """An import, its ledger, cloud and clock, and the pauses between its steps."""

    def __init__(self, ledger: Ledger, cloud: SimulatedIms, clock: Clock) -> None:
        self.ledger, self.cloud, self.clock = ledger, cloud, clock
        self.importer = Importer(
            records=ledger.imports,
            transitions=ledger.transitions,
            clouds=FakeClouds(cloud),
            cooldowns=FakeCooldowns(clock),
            policy=QUICK_SETTINGS,
            max_active=2,
            uncertain_policy="resubmit",
            now=clock,
        )
        self.start()
        self.id = self.record()

    def start(self) -> None:
        self.poll_state = PollState()
        self.pauses: list[timedelta] = []

    def record(self, **differences: Any) -> str:
        record, _ = self.ledger.imports.record(parse_request(a_body(**differences)))
        return record.id

    def change_stored_request(self, path: str, value: object) -> None:
        changed = {"id": self.id, "path": path, "value": value}
        with self.ledger._engine.begin() as db:
            sql = "UPDATE imports SET request = json_set(request, :path, :value) WHERE id = :id"
            db.execute(text(sql), changed)

    def change_row(self, column: str, value: object) -> None:
        with self.ledger._engine.begin() as db:
            db.execute(update(imports).where(imports.c.id == self.id).values({column: value}))

    @property
    def now(self) -> ImportResult:
        return self.ledger.imports.get(self.id)

    def submit(self) -> ImportResult:
        return self._remember(self.importer.submit(self.id))

    def poll(self) -> ImportResult:
        return self._remember(self.importer.poll(self.id, self.poll_state))

    def _remember(self, step: Finished | PollAgain) -> ImportResult:
        if isinstance(step, PollAgain):
            self.poll_state = step.poll_state
            self.pauses.append(step.after)
        return self.now

    def run_to_end(self, steps: int = 50) -> ImportResult:
        """Step as the queue does: submit while it waits, else poll, with the pauses it asks for."""
        for _ in range(steps):
            if self.now.state.terminal:
                return self.now
            waits = self.now.state in (State.QUEUED, State.WAITING)
            self.submit() if waits else self.poll()
            self.clock.now += self.pauses[-1]
        raise AssertionError(f"no end after {steps} steps: {self.now}")

    def path(self) -> list[str]:
        """Every state of the import, from its events."""
        return [
            str(event.to_state) for event in self.ledger.imports.events(self.id) if event.to_state
        ]


@pytest.fixture
def scenario(tmp_path: Path) -> Iterator[Scenario]:
    clock = Clock()
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", now=clock)
    ledger.migrate()
    yield Scenario(ledger, SimulatedIms(now=clock), clock)
    ledger.close()


# --- success --------------------------------------------------------------------------------


def test_an_import_ends_with_an_active_image(scenario: Scenario) -> None:
    end = scenario.run_to_end()

    assert scenario.path() == ["QUEUED", "SUBMITTING", "RUNNING", "VERIFYING", "SUCCEEDED"]
    assert end.image is not None
    assert (end.image.status, end.image.id) == ("active", end.image_id)
    assert (end.attempts, end.error, scenario.cloud.creates) == (1, None, 1)


def test_the_first_poll_comes_at_once_and_later_ones_less_often(scenario: Scenario) -> None:
    scenario.cloud.state.polls_per_job = 8

    scenario.run_to_end()

    assert scenario.pauses[0] == timedelta(0)
    pauses = scenario.pauses[1:8]
    assert pauses == sorted(pauses)
    assert pauses[-1] == QUICK_SETTINGS.longest


def test_webhooks_report_progress_in_steps(scenario: Scenario) -> None:
    scenario.ledger.webhook_endpoints.add("https://ci.example/hook")
    scenario.cloud.state.polls_per_job = 20
    scenario.cloud.state.change(show_percent=True)

    scenario.run_to_end()

    events = [str(item.event) for item in reversed(scenario.ledger.outbox.page())]
    assert events == ["import.submitted", *["import.progress"] * 3, "import.succeeded"]


def test_late_and_repeated_messages_send_no_request(scenario: Scenario) -> None:
    scenario.submit()
    for _ in range(3):
        scenario.submit()
    scenario.run_to_end()

    assert scenario.submit().state is State.SUCCEEDED
    assert scenario.poll().state is State.SUCCEEDED
    assert scenario.cloud.creates == 1


# --- errors of the cloud --------------------------------------------------------------------


def test_a_failed_job_fails_the_import_with_code_text_and_hint(scenario: Scenario) -> None:
    scenario.cloud.fail_next_job()

    end = scenario.run_to_end()

    assert end.state is State.FAILED
    assert end.error is not None
    assert (end.error.code, end.error.error_class) == ("IMG.0057", ErrorClass.PERMANENT)
    assert end.error.message == "The image file is empty or in incorrect format."
    assert end.error.hint
    assert end.reason == "IMG.0057: The image file is empty or in incorrect format."


def test_a_permanently_refused_request_fails_at_once(scenario: Scenario) -> None:
    scenario.cloud.refuse_next_create("IMG.0024")

    assert scenario.submit().state is State.FAILED
    assert scenario.now.error is not None
    assert scenario.now.error.code == "IMG.0024"


@pytest.mark.parametrize(
    "problem",
    [
        busy(),
        NotSent(a_failure("NET.refused", "connection refused"), tried="POST"),
        LoginRefused(a_failure("IAM.401", "wrong", ErrorClass.AUTH), tried="POST"),
        refused("IMG.0060", ErrorClass.RETRY),
        refused("IMG.0064", ErrorClass.BLOCKED),
    ],
    ids=["busy", "not sent", "login refused", "retry", "hold"],
)
def test_a_request_that_created_nothing_waits_with_its_reason_and_is_sent_again(
    scenario: Scenario, problem: Any
) -> None:
    scenario.cloud.raise_on_next_create(problem)

    waits = scenario.submit()

    assert (waits.state, waits.error) == (State.WAITING, problem.failure)
    assert problem.failure.code in (waits.reason or "")
    assert scenario.pauses[-1] > timedelta(0)
    assert scenario.run_to_end().state is State.SUCCEEDED
    assert scenario.now.error is None


def test_every_refusal_makes_the_next_pause_longer(scenario: Scenario) -> None:
    for _ in range(4):
        scenario.cloud.refuse_next_create("IMG.0060")
        scenario.submit()

    assert scenario.pauses == sorted(scenario.pauses)
    assert scenario.pauses[-1] > scenario.pauses[0]


def test_retry_after_is_honoured(scenario: Scenario) -> None:
    scenario.cloud.throttle_next_create(77)

    scenario.submit()

    assert scenario.pauses == [timedelta(seconds=77)]


def test_a_project_has_at_most_its_limit_of_active_jobs_and_the_rest_waits(
    scenario: Scenario,
) -> None:
    others = [scenario.record(name=f"other-{number}") for number in range(2)]
    for other in others:
        scenario.importer.submit(other)

    waits = scenario.submit()

    assert waits.state is State.WAITING
    assert waits.reason == f"2 of 2 IMS jobs active in project {PROJECT}, 1st in line"
    assert scenario.cloud.creates == 2


def test_a_throttled_project_gets_no_request_from_any_worker(scenario: Scenario) -> None:
    scenario.cloud.throttle_next_create(60)
    scenario.submit()
    other = scenario.record(name="other")

    scenario.importer.submit(other)

    assert scenario.cloud.creates == 1
    assert scenario.ledger.imports.get(other).reason == "IMS asks to slow down until 03:05:05 UTC"
    scenario.clock.now += timedelta(seconds=61)
    scenario.importer.submit(other)
    assert scenario.cloud.creates == 2


def test_too_many_jobs_stop_creates_but_no_polls(scenario: Scenario) -> None:
    running = scenario.record(name="running")
    scenario.importer.submit(running)
    scenario.cloud.refuse_next_create("IMG.0060")
    scenario.submit()

    waits = scenario.importer.submit(scenario.record(name="other"))
    polled = scenario.importer.poll(running, PollState())

    assert isinstance(waits, PollAgain)
    assert waits.record.state is State.WAITING
    assert scenario.cloud.creates == 2
    assert isinstance(polled, PollAgain)
    assert polled.poll_state.polls == 1


def test_a_stored_request_that_is_invalid_now_fails_before_the_intent_is_written(
    scenario: Scenario,
) -> None:
    """An upgrade may bring rules that a request of the previous version breaks."""
    scenario.change_stored_request("$.min_disk", 0)

    end = scenario.submit()

    assert end.error is not None
    assert end.error.code == "REQUEST.invalid"
    assert end.error.message.startswith("min_disk: must be 1 to 1024 GB")
    assert (end.error.error_class, bool(end.error.hint)) == (ErrorClass.PERMANENT, True)
    assert scenario.path() == ["QUEUED", "FAILED"]
    assert (end.attempts, scenario.cloud.creates) == (0, 0)


def test_a_request_of_a_newer_version_fails_before_the_intent_is_written(
    scenario: Scenario,
) -> None:
    """It may look valid and mean something else; after the update it can be tried again."""
    scenario.change_row("request_version", REQUEST_VERSION + 1)

    end = scenario.submit()

    assert end.error is not None
    assert end.error.code == "REQUEST.invalid"
    assert end.error.message.startswith(f"request: has version {REQUEST_VERSION + 1}")
    assert (scenario.path(), scenario.cloud.creates) == (["QUEUED", "FAILED"], 0)
    assert end.request


def test_an_adopted_import_that_version_0_1_queued_again_is_never_sent(
    scenario: Scenario,
) -> None:
    scenario.change_row("origin", "adopted")

    end = scenario.submit()

    assert end.error is not None
    assert end.error.message == "request: an adopted import has no request to send"
    assert (scenario.path(), scenario.cloud.creates) == (["QUEUED", "FAILED"], 0)


def test_polling_does_not_need_the_request(scenario: Scenario) -> None:
    """An adopted import has none."""
    scenario.submit()
    scenario.change_stored_request("$.name", None)

    assert scenario.run_to_end().state is State.SUCCEEDED


# --- a name that exists ---------------------------------------------------------------------


@pytest.mark.parametrize("tags", [{}, {"ims-import-id": "another"}, {"team": "a"}])
def test_a_name_of_another_image_is_tried_once_and_fails_with_its_id(
    scenario: Scenario, tags: dict[str, str]
) -> None:
    other = scenario.cloud.add_image(scenario.now.name, image_url="other:file.qcow2", **tags)
    scenario.cloud.refuse_next_create("IMG.0009")

    end = scenario.submit()

    assert end.error is not None
    assert (end.state, end.error.code) == (State.FAILED, "IMG.0009")
    assert end.error.message.endswith(f"image {other}")
    assert "use another name" in end.error.hint
    assert (scenario.cloud.creates, end.attempts) == (1, 1)


def test_a_name_of_the_image_of_a_lost_response_is_followed(scenario: Scenario) -> None:
    image_id = scenario.cloud.add_image(
        scenario.now.name, image_url="bucket:file.qcow2", **{"ims-import-id": scenario.id}
    )
    scenario.cloud.refuse_next_create("IMG.0009")

    end = scenario.run_to_end()

    assert (end.state, end.image_id) == (State.SUCCEEDED, image_id)
    assert scenario.cloud.creates == 1


def test_a_name_of_an_image_that_a_cancel_kept_fails_with_its_id(scenario: Scenario) -> None:
    scenario.submit()
    scenario.ledger.transitions.cancel(scenario.id, leave_image=True, by="me")
    kept = scenario.run_to_end().image_id
    scenario.ledger.transitions.retry(scenario.id, by="me")
    scenario.cloud.refuse_next_create("IMG.0009")

    end = scenario.submit()

    assert end.error is not None
    assert (end.state, scenario.cloud.creates) == (State.FAILED, 2)
    assert end.error.message.endswith(f"image {kept}")


def test_a_name_that_no_image_has_is_searched_for_again(scenario: Scenario) -> None:
    """IMS may list the image of a lost response late."""
    scenario.cloud.refuse_next_create("IMG.0009")

    assert scenario.submit().state is State.UNCERTAIN


# --- lost responses -------------------------------------------------------------------------


def test_after_a_lost_response_the_image_is_found_and_followed(scenario: Scenario) -> None:
    scenario.cloud.lose_next_response(created=True)

    assert scenario.submit().state is State.UNCERTAIN
    [image_id] = scenario.cloud.images
    scenario.cloud.finish(image_id)
    end = scenario.run_to_end()

    assert (end.state, end.image_id, scenario.cloud.creates) == (State.SUCCEEDED, image_id, 1)
    assert "SUBMITTING" in scenario.path()
    assert "job id lost" in (end.reason or "")


def test_a_lost_request_is_sent_again_only_after_the_search(scenario: Scenario) -> None:
    scenario.cloud.lose_next_response(created=False)

    scenario.submit()
    sent_again_at = None
    while scenario.cloud.creates == 1:
        waits = scenario.now.state in (State.QUEUED, State.WAITING)
        scenario.submit() if waits else scenario.poll()
        sent_again_at = scenario.clock.now
        scenario.clock.now += scenario.pauses[-1]
    end = scenario.run_to_end()

    assert sent_again_at is not None
    assert sent_again_at - end.created_at >= QUICK_SETTINGS.settle
    assert (end.state, scenario.cloud.creates, len(scenario.cloud.images)) == (
        State.SUCCEEDED,
        2,
        1,
    )
    assert end.attempts == 2


def test_an_image_with_the_tag_of_another_import_is_not_taken(scenario: Scenario) -> None:
    """Two imports may have the same name and file; each gets its own image."""
    tag = {"ims-import-id": "another-import"}
    other = scenario.cloud.add_image(scenario.now.name, image_url="images:ubuntu.qcow2", **tag)
    scenario.cloud.lose_next_response(created=False)

    scenario.submit()
    end = scenario.run_to_end()

    assert (end.state, end.attempts) == (State.SUCCEEDED, 2)
    assert end.image_id != other


def test_with_policy_ask_a_person_decides(scenario: Scenario) -> None:
    scenario.importer = replace(scenario.importer, uncertain_policy="ask")
    scenario.cloud.lose_next_response(created=False)

    scenario.submit()
    for _ in range(30):
        scenario.poll()
        scenario.clock.now += scenario.pauses[-1]

    assert scenario.now.state is State.UNCERTAIN
    assert "a person must decide" in (scenario.now.reason or "")
    assert scenario.cloud.creates == 1


def test_two_images_for_one_request_are_listed_and_kept(scenario: Scenario) -> None:
    scenario.cloud.lose_next_response(created=True)
    scenario.submit()
    twin = {"ims-import-id": scenario.id}
    scenario.cloud.add_image(scenario.now.name, image_url="images:ubuntu.qcow2", **twin)

    polled = scenario.poll()

    assert polled.state is State.UNCERTAIN
    assert "several images" in (polled.reason or "")
    assert all(known in (polled.reason or "") for known in scenario.cloud.images)
    assert scenario.cloud.creates == 1


def test_an_import_left_in_submitting_is_searched_before_it_is_sent_again(
    scenario: Scenario,
) -> None:
    """Its worker died after it wrote the intent; whether it sent the request is unknown."""
    scenario.ledger.transitions.move(
        scenario.id, from_state=State.QUEUED, to=State.SUBMITTING, project=PROJECT, attempts=1
    )

    assert scenario.poll().state is State.UNCERTAIN
    assert scenario.poll().state is State.UNCERTAIN
    assert scenario.cloud.creates == 0
    assert scenario.run_to_end().state is State.SUCCEEDED
    assert scenario.cloud.creates == 1


def test_an_image_without_our_tag_is_found_by_name_and_source(scenario: Scenario) -> None:
    scenario.cloud.lose_next_response(created=True)
    scenario.submit()
    [image_id] = scenario.cloud.images
    scenario.cloud.finish(image_id)
    scenario.cloud.images[image_id].tags.clear()

    assert scenario.run_to_end().image_id == image_id


def test_an_image_with_the_same_name_from_another_file_is_ignored(scenario: Scenario) -> None:
    foreign = scenario.cloud.add_image(scenario.now.name, image_url="images:another.qcow2")
    scenario.cloud.lose_next_response(created=False)

    end = scenario.run_to_end()

    assert end.image_id != foreign
    assert scenario.cloud.creates == 2


# --- cancel and retry -----------------------------------------------------------------------


def test_an_import_canceled_before_its_request_sends_none(scenario: Scenario) -> None:
    scenario.ledger.transitions.cancel(scenario.id, by="me")

    assert scenario.submit().state is State.CANCELED
    assert scenario.cloud.creates == 0


def test_canceling_a_running_job_deletes_its_image_when_it_is_done(scenario: Scenario) -> None:
    scenario.submit()
    [image_id] = scenario.cloud.images
    scenario.ledger.transitions.cancel(scenario.id, by="me")

    end = scenario.run_to_end()

    assert end.state is State.CANCELED
    assert end.reason == f"canceled; its image {image_id} was deleted"
    assert scenario.cloud.images == {}


def test_canceling_with_leave_keeps_the_image(scenario: Scenario) -> None:
    scenario.submit()
    scenario.ledger.transitions.cancel(scenario.id, leave_image=True, by="me")

    end = scenario.run_to_end()

    assert end.state is State.CANCELED
    assert [*scenario.cloud.images] == [end.image_id]


def test_a_canceled_import_is_not_sent_again_after_a_lost_response(scenario: Scenario) -> None:
    scenario.cloud.lose_next_response(created=False)
    scenario.submit()
    scenario.ledger.transitions.cancel(scenario.id, by="me")

    assert scenario.run_to_end().state is State.CANCELED
    assert scenario.cloud.creates == 1


def test_an_ended_import_cannot_be_canceled(scenario: Scenario) -> None:
    scenario.run_to_end()

    with pytest.raises(InvalidState, match="is SUCCEEDED: it has ended"):
        scenario.ledger.transitions.cancel(scenario.id, by="me")


def test_retry_starts_a_new_attempt_under_the_same_id(scenario: Scenario) -> None:
    scenario.cloud.fail_next_job()
    scenario.run_to_end()

    scenario.ledger.transitions.retry(scenario.id, by="me")
    end = scenario.run_to_end()

    assert (end.state, end.attempts, end.error) == (State.SUCCEEDED, 2, None)
    assert scenario.cloud.creates == 2


def test_a_job_that_failed_for_a_transient_reason_is_retried_up_to_a_limit(
    scenario: Scenario,
) -> None:
    for _ in range(3):
        scenario.cloud.fail_next_job("IMG.0061", "internal error")
        while scenario.now.state is not State.RUNNING:
            scenario.submit()
        while scenario.now.state is State.RUNNING:
            scenario.poll()

    assert (scenario.now.state, scenario.now.attempts) == (State.FAILED, 3)
    assert scenario.cloud.creates == 3


def test_an_adopted_job_that_fails_is_not_sent_again(scenario: Scenario) -> None:
    """There is no request to send."""
    scenario.cloud.fail_next_job("IMG.0061", "internal error")
    job_id = scenario.submit().job_id
    record, _ = scenario.ledger.imports.adopt(str(job_id), name="a", cloud=None, by="me")
    scenario.id = record.id

    end = scenario.run_to_end()

    assert (end.state, end.error and end.error.code) == (State.FAILED, "IMG.0061")
    assert scenario.cloud.creates == 1


def test_an_image_of_an_earlier_attempt_is_not_taken_for_this_one(scenario: Scenario) -> None:
    scenario.submit()
    scenario.ledger.transitions.cancel(scenario.id, leave_image=True, by="me")
    scenario.run_to_end()
    scenario.ledger.transitions.retry(scenario.id, by="me")
    scenario.cloud.lose_next_response(created=False)

    end = scenario.run_to_end()

    assert (end.state, end.image_id) == (State.SUCCEEDED, [*scenario.cloud.images][1])


def test_resolving_an_uncertain_import_can_name_its_image(scenario: Scenario) -> None:
    scenario.importer = replace(scenario.importer, uncertain_policy="ask")
    scenario.cloud.lose_next_response(created=False)
    scenario.submit()
    theirs = scenario.cloud.add_image("theirs", image_url="images:theirs.qcow2")

    scenario.ledger.transitions.resolve(scenario.id, to=State.VERIFYING, image_id=theirs, by="me")

    assert scenario.run_to_end().image_id == theirs


# --- jobs and polls -------------------------------------------------------------------------


def test_an_unknown_job_does_not_end_the_import_while_its_image_exists(scenario: Scenario) -> None:
    scenario.submit()
    scenario.cloud.forget_jobs()
    [image_id] = scenario.cloud.images
    scenario.cloud.finish(image_id)

    end = scenario.run_to_end()

    assert (end.state, end.image_id) == (State.SUCCEEDED, image_id)
    assert scenario.cloud.creates == 1


def test_an_unknown_job_without_image_fails_and_is_not_sent_again(
    scenario: Scenario,
) -> None:
    scenario.submit()
    scenario.cloud.forget_jobs()
    scenario.cloud.state.images.clear()

    end = scenario.run_to_end()

    assert end.error is not None
    assert (end.state, end.error.code) == (State.FAILED, "JOB.lost")
    assert scenario.cloud.creates == 1


def test_a_failed_poll_does_not_change_the_import(scenario: Scenario) -> None:
    scenario.submit()
    scenario.cloud.fail_next_call(Kind.THROTTLED, seconds=99)

    assert scenario.poll().state is State.RUNNING
    assert scenario.pauses[-1] == timedelta(seconds=99)
    assert scenario.run_to_end().state is State.SUCCEEDED


def test_an_overdue_import_is_flagged_once_and_still_polled(
    scenario: Scenario,
) -> None:
    scenario.cloud.state.polls_per_job = 10
    scenario.submit()
    scenario.clock.now += QUICK_SETTINGS.deadline

    for _ in range(3):
        assert scenario.poll().overdue
    flagged = [
        event for event in scenario.ledger.imports.events(scenario.id) if event.kind == "overdue"
    ]

    assert len(flagged) == 1
    assert scenario.pauses[-1] > QUICK_SETTINGS.longest
    assert scenario.run_to_end().state is State.SUCCEEDED


def test_percent_never_goes_backwards_and_is_never_100_before_the_end(scenario: Scenario) -> None:
    class Percents(SimulatedIms):
        given = iter([5.0, 60.0, 30.0, None, 100.0])

        def read_job(self, job_id: JobId) -> CloudJob:
            return CloudJob(id=job_id, status=JobStatus.RUNNING, percent=next(self.given))

    scenario.importer = replace(scenario.importer, clouds=FakeClouds(Percents(now=scenario.clock)))
    scenario.submit()
    shown = []
    for _ in range(5):
        scenario.clock.now += timedelta(seconds=10)
        scenario.poll()
        shown.append(scenario.poll_state.progress.percent)

    assert shown == [5, 60, 60, 60, 99]


def test_a_job_that_succeeds_without_an_image_id_is_searched(scenario: Scenario) -> None:
    class Silent(SimulatedIms):
        def read_job(self, job_id: JobId) -> CloudJob:
            seen = super().read_job(job_id)
            return CloudJob(id=seen.id, status=seen.status)

    cloud = Silent(now=scenario.clock)
    scenario.importer = replace(scenario.importer, clouds=FakeClouds(cloud))

    end = scenario.run_to_end()

    assert (end.state, cloud.creates) == (State.SUCCEEDED, 1)
    assert [*cloud.images] == [end.image_id]


@pytest.mark.parametrize("status", ["killed", "deleted"])
def test_a_killed_or_deleted_image_fails_the_import(scenario: Scenario, status: str) -> None:
    scenario.submit()
    [image_id] = scenario.cloud.images
    scenario.ledger.transitions.move(
        scenario.id, from_state=State.RUNNING, to=State.VERIFYING, image_id=image_id
    )
    scenario.cloud.report_status(image_id, status)

    polled = scenario.poll()

    assert polled.error is not None
    assert (polled.state, polled.error.code) == (State.FAILED, f"IMAGE.{status}")


def test_an_image_that_stays_missing_fails_the_import_after_the_settle_time(
    scenario: Scenario,
) -> None:
    scenario.submit()
    [image_id] = scenario.cloud.images
    scenario.cloud.state.images.clear()
    scenario.ledger.transitions.move(
        scenario.id, from_state=State.RUNNING, to=State.VERIFYING, image_id=image_id
    )

    assert scenario.poll().state is State.VERIFYING
    end = scenario.run_to_end()

    assert end.error is not None
    assert (end.state, end.error.code) == (State.FAILED, "IMAGE.gone")
    assert scenario.clock.now - end.created_at >= QUICK_SETTINGS.settle
