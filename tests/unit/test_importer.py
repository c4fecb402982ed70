"""The story of one import, step by step, with a cloud that behaves and a clock that is set."""

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

from ims_config.import_request import parse_request
from ims_config.records import ErrorClass, ImportResult, State
from ims_ledger import InvalidState, Ledger
from ims_sandbox.cloud.faults import Kind
from ims_worker.decisions import PollingPolicy
from ims_worker.errors import LoginRefused, NotSent
from ims_worker.importer import Finished, Importer, PollAgain, PollState
from ims_worker.ports import CloudJob, JobId, JobStatus

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


class Told:
    """An import and what was done to it: the words the tests are told in."""

    def __init__(self, ledger: Ledger, cloud: SimulatedIms, clock: Clock) -> None:
        self.ledger, self.cloud, self.clock = ledger, cloud, clock
        self.importer = Importer(
            records=ledger.imports,
            transitions=ledger.transitions,
            clouds=FakeClouds(cloud),
            cooldowns=FakeCooldowns(clock),
            patience=QUICK_SETTINGS,
            max_active=2,
            uncertain_policy="resubmit",
            now=clock,
        )
        self.start()
        self.id = self.record()

    def start(self) -> None:
        self.live = PollState()
        self.pauses: list[timedelta] = []

    def record(self, **differences: Any) -> str:
        record, _ = self.ledger.imports.record(parse_request(a_body(**differences)))
        return record.id

    @property
    def now(self) -> ImportResult:
        return self.ledger.imports.get(self.id)

    def submit(self) -> ImportResult:
        return self._took(self.importer.submit(self.id))

    def look(self) -> ImportResult:
        return self._took(self.importer.poll(self.id, self.live))

    def _took(self, step: Finished | PollAgain) -> ImportResult:
        if isinstance(step, PollAgain):
            self.live = step.live
            self.pauses.append(step.after)
        return self.now

    def to_the_end(self, steps: int = 50) -> ImportResult:
        """As the queue does it: submit while it waits, else look, with the pauses it asks for."""
        for _ in range(steps):
            if self.now.state.terminal:
                return self.now
            waits = self.now.state in (State.QUEUED, State.WAITING)
            self.submit() if waits else self.look()
            self.clock.now += self.pauses[-1]
        raise AssertionError(f"no end after {steps} steps: {self.now}")

    def path(self) -> list[str]:
        """Every state it was in, from its events."""
        return [
            str(event.to_state) for event in self.ledger.imports.events(self.id) if event.to_state
        ]


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Told]:
    clock = Clock()
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", now=clock)
    ledger.migrate()
    yield Told(ledger, SimulatedIms(now=clock), clock)
    ledger.close()


# --- as it should be ------------------------------------------------------------------------


def test_an_import_ends_with_an_active_image(story: Told) -> None:
    end = story.to_the_end()

    assert story.path() == ["QUEUED", "SUBMITTING", "RUNNING", "VERIFYING", "SUCCEEDED"]
    assert end.image is not None
    assert (end.image.status, end.image.id) == ("active", end.image_id)
    assert (end.attempts, end.error, story.cloud.creates) == (1, None, 1)


def test_the_first_look_comes_at_once_and_later_ones_more_rarely(story: Told) -> None:
    story.cloud.state.polls_per_job = 8

    story.to_the_end()

    assert story.pauses[0] == timedelta(0)
    looks = story.pauses[1:8]
    assert looks == sorted(looks)
    assert looks[-1] == QUICK_SETTINGS.longest


def test_receivers_learn_of_progress_in_steps(story: Told) -> None:
    story.ledger.webhook_endpoints.add("https://ci.example/hook")
    story.cloud.state.polls_per_job = 20
    story.cloud.state.change(show_percent=True)

    story.to_the_end()

    told = [str(one.event) for one in reversed(story.ledger.outbox.page())]
    assert told == ["import.submitted", *["import.progress"] * 3, "import.succeeded"]


def test_late_and_repeated_messages_ask_for_nothing(story: Told) -> None:
    story.submit()
    for _ in range(3):
        story.submit()
    story.to_the_end()

    assert story.submit().state is State.SUCCEEDED
    assert story.look().state is State.SUCCEEDED
    assert story.cloud.creates == 1


# --- the cloud says no ----------------------------------------------------------------------


def test_a_failed_job_fails_the_import_with_code_text_and_hint(story: Told) -> None:
    story.cloud.fail_next_job()

    end = story.to_the_end()

    assert end.state is State.FAILED
    assert end.error is not None
    assert (end.error.code, end.error.error_class) == ("IMG.0057", ErrorClass.PERMANENT)
    assert end.error.message == "The image file is empty or in incorrect format."
    assert end.error.hint
    assert end.reason == "IMG.0057: The image file is empty or in incorrect format."


def test_a_request_that_is_refused_for_good_fails_at_once(story: Told) -> None:
    story.cloud.refuse_next_create("IMG.0024")

    assert story.submit().state is State.FAILED
    assert story.now.error is not None
    assert story.now.error.code == "IMG.0024"


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
def test_a_request_that_surely_made_nothing_waits_with_its_reason_and_is_made_again(
    story: Told, problem: Any
) -> None:
    story.cloud.raise_on_next_create(problem)

    waits = story.submit()

    assert (waits.state, waits.error) == (State.WAITING, problem.failure)
    assert problem.failure.code in (waits.reason or "")
    assert story.pauses[-1] > timedelta(0)
    assert story.to_the_end().state is State.SUCCEEDED
    assert story.now.error is None


def test_every_refusal_makes_the_next_pause_longer(story: Told) -> None:
    for _ in range(4):
        story.cloud.refuse_next_create("IMG.0060")
        story.submit()

    assert story.pauses == sorted(story.pauses)
    assert story.pauses[-1] > story.pauses[0]


def test_retry_after_is_honoured(story: Told) -> None:
    story.cloud.throttle_next_create(77)

    story.submit()

    assert story.pauses == [timedelta(seconds=77)]


def test_as_many_jobs_as_a_project_may_have_are_active_and_the_rest_waits(story: Told) -> None:
    others = [story.record(name=f"other-{number}") for number in range(2)]
    for other in others:
        story.importer.submit(other)

    waits = story.submit()

    assert waits.state is State.WAITING
    assert waits.reason == f"2 of 2 IMS jobs active in project {PROJECT}, 1st in line"
    assert story.cloud.creates == 2


def test_a_project_that_was_asked_to_slow_down_gets_no_request_from_anybody(story: Told) -> None:
    story.cloud.throttle_next_create(60)
    story.submit()
    other = story.record(name="other")

    story.importer.submit(other)

    assert story.cloud.creates == 1
    assert story.ledger.imports.get(other).reason == "IMS asks to slow down until 03:05:05 UTC"
    story.clock.now += timedelta(seconds=61)
    story.importer.submit(other)
    assert story.cloud.creates == 2


def test_too_many_jobs_stop_new_requests_but_no_looks(story: Told) -> None:
    running = story.record(name="running")
    story.importer.submit(running)
    story.cloud.refuse_next_create("IMG.0060")
    story.submit()

    waits = story.importer.submit(story.record(name="other"))
    looked = story.importer.poll(running, PollState())

    assert isinstance(waits, PollAgain)
    assert waits.record.state is State.WAITING
    assert story.cloud.creates == 2
    assert isinstance(looked, PollAgain)
    assert looked.live.polls == 1


# --- the answer was lost --------------------------------------------------------------------


def test_an_image_whose_request_lost_its_answer_is_found_and_followed(story: Told) -> None:
    story.cloud.lose_next_response(created=True)

    assert story.submit().state is State.UNCERTAIN
    [image_id] = story.cloud.images
    story.cloud.finish(image_id)
    end = story.to_the_end()

    assert (end.state, end.image_id, story.cloud.creates) == (State.SUCCEEDED, image_id, 1)
    assert "SUBMITTING" in story.path()
    assert "job id lost" in (end.reason or "")


def test_a_request_that_made_nothing_is_made_again_but_only_after_looking(story: Told) -> None:
    story.cloud.lose_next_response(created=False)

    story.submit()
    asked_again_at = None
    while story.cloud.creates == 1:
        waits = story.now.state in (State.QUEUED, State.WAITING)
        story.submit() if waits else story.look()
        asked_again_at = story.clock.now
        story.clock.now += story.pauses[-1]
    end = story.to_the_end()

    assert asked_again_at is not None
    assert asked_again_at - end.created_at >= QUICK_SETTINGS.settle
    assert (end.state, story.cloud.creates, len(story.cloud.images)) == (State.SUCCEEDED, 2, 1)
    assert end.attempts == 2


def test_with_the_policy_ask_a_person_decides(story: Told) -> None:
    story.importer = replace(story.importer, uncertain_policy="ask")
    story.cloud.lose_next_response(created=False)

    story.submit()
    for _ in range(30):
        story.look()
        story.clock.now += story.pauses[-1]

    assert story.now.state is State.UNCERTAIN
    assert "a person must decide" in (story.now.reason or "")
    assert story.cloud.creates == 1


def test_two_images_for_one_request_are_named_and_not_touched(story: Told) -> None:
    story.cloud.lose_next_response(created=True)
    story.submit()
    twin = {"ims-import-id": story.id}
    story.cloud.add_image(story.now.name, image_url="images:ubuntu.qcow2", **twin)

    looked = story.look()

    assert looked.state is State.UNCERTAIN
    assert "several images" in (looked.reason or "")
    assert all(known in (looked.reason or "") for known in story.cloud.images)
    assert story.cloud.creates == 1


def test_who_finds_an_import_in_submitting_looks_before_anything_is_asked(story: Told) -> None:
    """Its worker died after the intent; whether it had asked is unknown."""
    story.ledger.transitions.move(
        story.id, from_state=State.QUEUED, to=State.SUBMITTING, project=PROJECT, attempts=1
    )

    assert story.look().state is State.UNCERTAIN
    assert story.look().state is State.UNCERTAIN
    assert story.cloud.creates == 0
    assert story.to_the_end().state is State.SUCCEEDED
    assert story.cloud.creates == 1


def test_an_image_without_our_tag_is_found_by_name_and_source(story: Told) -> None:
    story.cloud.lose_next_response(created=True)
    story.submit()
    [image_id] = story.cloud.images
    story.cloud.finish(image_id)
    story.cloud.images[image_id].tags.clear()

    assert story.to_the_end().image_id == image_id


def test_an_image_of_the_same_name_from_another_file_is_not_ours(story: Told) -> None:
    foreign = story.cloud.add_image(story.now.name, image_url="images:another.qcow2")
    story.cloud.lose_next_response(created=False)

    end = story.to_the_end()

    assert end.image_id != foreign
    assert story.cloud.creates == 2


# --- canceled, and tried again --------------------------------------------------------------


def test_canceled_before_ims_was_asked_nothing_is_asked(story: Told) -> None:
    story.ledger.transitions.cancel(story.id, by="me")

    assert story.submit().state is State.CANCELED
    assert story.cloud.creates == 0


def test_canceled_while_the_job_runs_the_image_is_deleted_when_it_is_done(story: Told) -> None:
    story.submit()
    [image_id] = story.cloud.images
    story.ledger.transitions.cancel(story.id, by="me")

    end = story.to_the_end()

    assert end.state is State.CANCELED
    assert end.reason == f"canceled; its image {image_id} was deleted"
    assert story.cloud.images == {}


def test_the_image_is_left_if_asked_to(story: Told) -> None:
    story.submit()
    story.ledger.transitions.cancel(story.id, leave_image=True, by="me")

    end = story.to_the_end()

    assert end.state is State.CANCELED
    assert [*story.cloud.images] == [end.image_id]


def test_a_canceled_import_whose_answer_was_lost_is_never_asked_for_again(story: Told) -> None:
    story.cloud.lose_next_response(created=False)
    story.submit()
    story.ledger.transitions.cancel(story.id, by="me")

    assert story.to_the_end().state is State.CANCELED
    assert story.cloud.creates == 1


def test_what_has_ended_cannot_be_canceled(story: Told) -> None:
    story.to_the_end()

    with pytest.raises(InvalidState, match="is SUCCEEDED: it has ended"):
        story.ledger.transitions.cancel(story.id, by="me")


def test_a_failed_import_is_tried_again_under_the_same_id_when_asked(story: Told) -> None:
    story.cloud.fail_next_job()
    story.to_the_end()

    story.ledger.transitions.retry(story.id, by="me")
    end = story.to_the_end()

    assert (end.state, end.attempts, end.error) == (State.SUCCEEDED, 2, None)
    assert story.cloud.creates == 2


def test_a_job_that_failed_for_a_passing_reason_is_tried_again_but_not_for_ever(
    story: Told,
) -> None:
    for _ in range(3):
        story.cloud.fail_next_job("IMG.0061", "internal error")
        while story.now.state is not State.RUNNING:
            story.submit()
        while story.now.state is State.RUNNING:
            story.look()

    assert (story.now.state, story.now.attempts) == (State.FAILED, 3)
    assert story.cloud.creates == 3


def test_an_image_that_an_earlier_attempt_left_is_not_taken_for_this_ones(story: Told) -> None:
    story.submit()
    story.ledger.transitions.cancel(story.id, leave_image=True, by="me")
    story.to_the_end()
    story.ledger.transitions.retry(story.id, by="me")
    story.cloud.lose_next_response(created=False)

    end = story.to_the_end()

    assert (end.state, end.image_id) == (State.SUCCEEDED, [*story.cloud.images][1])


def test_who_resolves_an_uncertain_import_names_its_image(story: Told) -> None:
    story.importer = replace(story.importer, uncertain_policy="ask")
    story.cloud.lose_next_response(created=False)
    story.submit()
    theirs = story.cloud.add_image("theirs", image_url="images:theirs.qcow2")

    story.ledger.transitions.resolve(story.id, to=State.VERIFYING, image_id=theirs, by="me")

    assert story.to_the_end().image_id == theirs


# --- jobs and looks -------------------------------------------------------------------------


def test_a_job_that_the_cloud_forgot_is_no_end_while_its_image_is_there(story: Told) -> None:
    story.submit()
    story.cloud.forget_jobs()
    [image_id] = story.cloud.images
    story.cloud.finish(image_id)

    end = story.to_the_end()

    assert (end.state, end.image_id) == (State.SUCCEEDED, image_id)
    assert story.cloud.creates == 1


def test_a_job_that_left_neither_trace_nor_image_fails_and_is_never_asked_for_again(
    story: Told,
) -> None:
    story.submit()
    story.cloud.forget_jobs()
    story.cloud.state.images.clear()

    end = story.to_the_end()

    assert end.error is not None
    assert (end.state, end.error.code) == (State.FAILED, "JOB.lost")
    assert story.cloud.creates == 1


def test_a_look_that_fails_says_nothing_about_the_import(story: Told) -> None:
    story.submit()
    story.cloud.fail_next_call(Kind.THROTTLED, seconds=99)

    assert story.look().state is State.RUNNING
    assert story.pauses[-1] == timedelta(seconds=99)
    assert story.to_the_end().state is State.SUCCEEDED


def test_past_its_deadline_an_import_is_flagged_once_and_followed_all_the_same(
    story: Told,
) -> None:
    story.cloud.state.polls_per_job = 10
    story.submit()
    story.clock.now += QUICK_SETTINGS.deadline

    for _ in range(3):
        assert story.look().overdue
    flagged = [event for event in story.ledger.imports.events(story.id) if event.kind == "overdue"]

    assert len(flagged) == 1
    assert story.pauses[-1] > QUICK_SETTINGS.longest
    assert story.to_the_end().state is State.SUCCEEDED


def test_percent_never_goes_backwards_and_is_never_100_before_the_end(story: Told) -> None:
    class Percents(SimulatedIms):
        given = iter([5.0, 60.0, 30.0, None, 100.0])

        def read_job(self, job_id: JobId) -> CloudJob:
            return CloudJob(id=job_id, status=JobStatus.RUNNING, percent=next(self.given))

    story.importer = replace(story.importer, clouds=FakeClouds(Percents(now=story.clock)))
    story.submit()
    shown = []
    for _ in range(5):
        story.clock.now += timedelta(seconds=10)
        story.look()
        shown.append(story.live.progress.percent)

    assert shown == [5, 60, 60, 60, 99]


def test_a_job_that_succeeds_without_an_image_id_has_its_image_looked_for(story: Told) -> None:
    class Silent(SimulatedIms):
        def read_job(self, job_id: JobId) -> CloudJob:
            seen = super().read_job(job_id)
            return CloudJob(id=seen.id, status=seen.status)

    cloud = Silent(now=story.clock)
    story.importer = replace(story.importer, clouds=FakeClouds(cloud))

    end = story.to_the_end()

    assert (end.state, cloud.creates) == (State.SUCCEEDED, 1)
    assert [*cloud.images] == [end.image_id]


@pytest.mark.parametrize("status", ["killed", "deleted"])
def test_an_image_that_did_not_survive_fails_the_import(story: Told, status: str) -> None:
    story.submit()
    [image_id] = story.cloud.images
    story.ledger.transitions.move(
        story.id, from_state=State.RUNNING, to=State.VERIFYING, image_id=image_id
    )
    story.cloud.report_status(image_id, status)

    looked = story.look()

    assert looked.error is not None
    assert (looked.state, looked.error.code) == (State.FAILED, f"IMAGE.{status}")


def test_an_image_that_stays_missing_fails_the_import_after_some_patience(story: Told) -> None:
    story.submit()
    [image_id] = story.cloud.images
    story.cloud.state.images.clear()
    story.ledger.transitions.move(
        story.id, from_state=State.RUNNING, to=State.VERIFYING, image_id=image_id
    )

    assert story.look().state is State.VERIFYING
    end = story.to_the_end()

    assert end.error is not None
    assert (end.state, end.error.code) == (State.FAILED, "IMAGE.gone")
    assert story.clock.now - end.created_at >= QUICK_SETTINGS.settle
