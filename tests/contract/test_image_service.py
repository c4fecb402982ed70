"""The IMS client against the core of the sandbox cloud: what the importer relies on."""

import uuid
from datetime import timedelta

import pytest
from ims_client import NOON
from simulated_ims import SimulatedIms

from ims_config.import_request import ImportRequest, parse_request
from ims_worker.errors import (
    CloudProblem,
    JobNotFound,
    OutcomeUnknown,
    Refused,
    Throttled,
    ThrottleScope,
    Unavailable,
)
from ims_worker.ports import ImageId, JobId, JobStatus


@pytest.fixture
def ims() -> SimulatedIms:
    return SimulatedIms()


def an_id() -> str:
    return str(uuid.uuid4())


def a_request(name: str = "ubuntu") -> ImportRequest:
    return parse_request({"name": name, "image_url": "images:ubuntu.qcow2", "min_disk": 40})


def test_a_job_runs_and_then_names_its_image(ims: SimulatedIms) -> None:
    job_id = ims.create_image(a_request(), import_id=an_id())

    readings = [ims.read_job(job_id) for _ in range(4)]

    assert [job.status for job in readings] == [
        JobStatus.INIT,
        JobStatus.RUNNING,
        JobStatus.SUCCESS,
        JobStatus.SUCCESS,
    ]
    image = ims.read_image(readings[-1].image_ids[0])
    assert image is not None
    assert (image.status, image.name, image.min_disk) == ("active", "ubuntu", 40)
    assert image.data_origin == "file,images:ubuntu.qcow2"


def test_a_failed_job_says_why(ims: SimulatedIms) -> None:
    ims.fail_next_job()
    job_id = ims.create_image(a_request(), import_id=an_id())

    job = [ims.read_job(job_id) for _ in range(3)][-1]

    assert job.status is JobStatus.FAIL
    assert job.failure is not None
    assert job.failure.code == "IMG.0057"
    assert "empty" in job.failure.message


def test_the_image_of_a_lost_answer_is_found_by_its_tag(ims: SimulatedIms) -> None:
    mine = an_id()
    ims.create_image(a_request(), import_id=an_id())
    ims.lose_next_response(created=True)

    with pytest.raises(OutcomeUnknown):
        ims.create_image(a_request(), import_id=mine)

    assert [image.id for image in ims.images_tagged(mine)] == [*ims.images][1:]
    assert ims.creates == 2


def test_a_lost_request_that_never_arrived_left_no_image(ims: SimulatedIms) -> None:
    mine = an_id()
    ims.lose_next_response(created=False)

    with pytest.raises(OutcomeUnknown):
        ims.create_image(a_request(), import_id=mine)

    assert not ims.images_tagged(mine)
    assert not ims.images_named("ubuntu", since=NOON - timedelta(hours=1))


def test_images_are_found_by_name_and_time(ims: SimulatedIms) -> None:
    ims.create_image(a_request("ubuntu"), import_id=an_id())
    ims.create_image(a_request("debian"), import_id=an_id())

    named = ims.images_named("debian", since=NOON - timedelta(minutes=5))
    later = ims.images_named("debian", since=NOON + timedelta(minutes=5))

    assert [image.id for image in named] == [*ims.images][1:]
    assert not later


def test_a_busy_cloud_makes_nothing_and_may_be_asked_again(ims: SimulatedIms) -> None:
    ims.refuse_next_create("IMG.0060")

    with pytest.raises(Throttled) as caught:
        ims.create_image(a_request(), import_id=an_id())

    assert caught.value.failure.code == "IMG.0060"
    assert caught.value.scope is ThrottleScope.CREATES
    assert ims.images == {}
    assert ims.create_image(a_request(), import_id=an_id())


def test_a_bad_request_is_refused(ims: SimulatedIms) -> None:
    ims.refuse_next_create("IMG.0024")

    with pytest.raises(Refused) as caught:
        ims.create_image(a_request(), import_id=an_id())

    assert caught.value.failure.code == "IMG.0024"
    assert ims.images == {}


def test_an_unknown_image_is_none(ims: SimulatedIms) -> None:
    assert ims.read_image(ImageId("nowhere")) is None


def test_an_unknown_job_is_not_found_and_has_the_clouds_code(ims: SimulatedIms) -> None:
    job_id = ims.create_image(a_request(), import_id=an_id())
    ims.forget_jobs()

    for unknown in (job_id, JobId("never")):
        with pytest.raises(JobNotFound) as caught:
            ims.read_job(unknown)
        assert caught.value.failure.code == "IMG.0023"


@pytest.mark.parametrize("read", ["job", "image", "tagged", "named", "quota"])
def test_a_failed_read_can_be_repeated(ims: SimulatedIms, read: str) -> None:
    job_id = ims.create_image(a_request(), import_id=an_id())
    reads = {
        "job": lambda: ims.read_job(job_id),
        "image": lambda: ims.read_image(ImageId(next(iter(ims.images)))),
        "tagged": lambda: ims.images_tagged(an_id()),
        "named": lambda: ims.images_named("ubuntu", since=NOON),
        "quota": ims.quota,
    }
    ims.fail_next_call()

    with pytest.raises(Unavailable):
        reads[read]()

    assert reads[read]() is not None


def test_every_problem_is_a_cloud_problem_that_says_what_was_tried(ims: SimulatedIms) -> None:
    ims.refuse_next_create("IMG.0024")

    with pytest.raises(CloudProblem) as caught:
        ims.create_image(a_request(), import_id=an_id())

    assert "POST /v2/cloudimages/action (HTTP 400" in str(caught.value)


def test_the_quota_counts_images(ims: SimulatedIms) -> None:
    ims.state.change(quota=100)
    ims.create_image(a_request(), import_id=an_id())
    ims.finish(*ims.images)

    quota = ims.quota()

    assert (quota.used, quota.limit) == (1, 100)


def test_all_private_images_are_listed(ims: SimulatedIms) -> None:
    for number in range(3):
        ims.create_image(a_request(f"image-{number}"), import_id=an_id())

    assert len(ims.private_images()) == 3


def test_a_deleted_image_is_gone_and_deleting_it_again_is_no_error(ims: SimulatedIms) -> None:
    import_id = an_id()
    job_id = ims.create_image(a_request(), import_id=import_id)
    for _ in range(4):
        ims.read_job(job_id)
    [image] = ims.images_tagged(import_id)

    for _ in range(2):
        ims.delete_image(ImageId(image.id))

    assert ims.read_image(ImageId(image.id)) is None
    assert ims.images_tagged(import_id) == []
