"""What every image service keeps: the fake that other tests use, and the real client."""

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from contract.tiny_ims import NOON, TinyIms, Wire, client_on
from fakes import FakeImageService, busy, refused

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
from ims_worker.ports import ImageId, ImageService, JobId, JobStatus


@dataclass
class Bench:
    """A service and the levers of the world behind it."""

    service: ImageService
    world: Any


class FakeWorld(FakeImageService):
    def busy_once(self) -> None:
        self.refuse_next_create(busy())

    def refuse_once(self) -> None:
        self.refuse_next_create(refused("IMG.0024"))

    def break_next_read(self) -> None:
        self.fail_next_read(busy())


@pytest.fixture(params=["fake", "client"])
def bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "fake":
        fake = FakeWorld(now=lambda: NOON)
        return Bench(fake, fake)
    world = TinyIms()
    return Bench(client_on(Wire(world)), world)


def an_id() -> str:
    return str(uuid.uuid4())


def a_request(name: str = "ubuntu") -> ImportRequest:
    return parse_request({"name": name, "image_url": "images:ubuntu.qcow2", "min_disk": 40})


def test_a_job_runs_and_then_names_its_image(bench: Bench) -> None:
    job_id = bench.service.create_image(a_request(), import_id=an_id())

    readings = [bench.service.read_job(job_id) for _ in range(4)]

    assert [job.status for job in readings] == [
        JobStatus.INIT,
        JobStatus.RUNNING,
        JobStatus.SUCCESS,
        JobStatus.SUCCESS,
    ]
    image = bench.service.read_image(readings[-1].image_ids[0])
    assert image is not None
    assert (image.status, image.name, image.min_disk) == ("active", "ubuntu", 40)
    assert image.data_origin == "file,images:ubuntu.qcow2"


def test_a_failed_job_says_why(bench: Bench) -> None:
    bench.world.fail_next_job()
    job_id = bench.service.create_image(a_request(), import_id=an_id())

    job = [bench.service.read_job(job_id) for _ in range(3)][-1]

    assert job.status is JobStatus.FAIL
    assert job.failure is not None
    assert job.failure.code == "IMG.0057"
    assert "empty" in job.failure.message


def test_the_image_of_a_lost_answer_is_found_by_its_tag(bench: Bench) -> None:
    mine = an_id()
    bench.service.create_image(a_request(), import_id=an_id())
    bench.world.lose_next_answer(made=True)

    with pytest.raises(OutcomeUnknown):
        bench.service.create_image(a_request(), import_id=mine)

    assert [image.id for image in bench.service.images_tagged(mine)] == ["img-2"]
    assert bench.world.creates == 2


def test_a_lost_request_that_never_arrived_left_no_image(bench: Bench) -> None:
    mine = an_id()
    bench.world.lose_next_answer(made=False)

    with pytest.raises(OutcomeUnknown):
        bench.service.create_image(a_request(), import_id=mine)

    assert not bench.service.images_tagged(mine)
    assert not bench.service.images_named("ubuntu", since=NOON - timedelta(hours=1))


def test_images_are_found_by_name_and_time(bench: Bench) -> None:
    bench.service.create_image(a_request("ubuntu"), import_id=an_id())
    bench.service.create_image(a_request("debian"), import_id=an_id())

    named = bench.service.images_named("debian", since=NOON - timedelta(minutes=5))
    later = bench.service.images_named("debian", since=NOON + timedelta(minutes=5))

    assert [image.id for image in named] == ["img-2"]
    assert not later


def test_a_busy_cloud_makes_nothing_and_may_be_asked_again(bench: Bench) -> None:
    bench.world.busy_once()

    with pytest.raises(Throttled) as caught:
        bench.service.create_image(a_request(), import_id=an_id())

    assert caught.value.failure.code == "IMG.0060"
    assert caught.value.scope is ThrottleScope.CREATES
    assert bench.service.quota().used == 0
    assert bench.service.create_image(a_request(), import_id=an_id())


def test_a_bad_request_is_refused(bench: Bench) -> None:
    bench.world.refuse_once()

    with pytest.raises(Refused) as caught:
        bench.service.create_image(a_request(), import_id=an_id())

    assert caught.value.failure.code == "IMG.0024"
    assert bench.service.quota().used == 0


def test_an_unknown_image_is_none(bench: Bench) -> None:
    assert bench.service.read_image(ImageId("nowhere")) is None


def test_an_unknown_job_is_not_found_and_has_the_clouds_code(bench: Bench) -> None:
    job_id = bench.service.create_image(a_request(), import_id=an_id())
    bench.world.forget_jobs()

    for unknown in (job_id, JobId("never")):
        with pytest.raises(JobNotFound) as caught:
            bench.service.read_job(unknown)
        assert caught.value.failure.code == "IMG.0023"


@pytest.mark.parametrize("read", ["job", "image", "tagged", "named", "quota"])
def test_a_failed_read_can_be_repeated(bench: Bench, read: str) -> None:
    job_id = bench.service.create_image(a_request(), import_id=an_id())
    reads = {
        "job": lambda: bench.service.read_job(job_id),
        "image": lambda: bench.service.read_image(ImageId("img-1")),
        "tagged": lambda: bench.service.images_tagged(an_id()),
        "named": lambda: bench.service.images_named("ubuntu", since=NOON),
        "quota": bench.service.quota,
    }
    bench.world.break_next_read()

    with pytest.raises(Unavailable):
        reads[read]()

    assert reads[read]() is not None


def test_every_problem_is_a_cloud_problem_that_says_what_was_tried(bench: Bench) -> None:
    bench.world.refuse_once()

    with pytest.raises(CloudProblem) as caught:
        bench.service.create_image(a_request(), import_id=an_id())

    assert "POST /v2/cloudimages/action (HTTP 400" in str(caught.value)


def test_the_quota_counts_images(bench: Bench) -> None:
    bench.service.create_image(a_request(), import_id=an_id())

    quota = bench.service.quota()

    assert (quota.used, quota.limit) == (1, 100)


def test_all_private_images_are_listed(bench: Bench) -> None:
    for number in range(3):
        bench.service.create_image(a_request(f"image-{number}"), import_id=an_id())

    assert len(bench.service.private_images()) == 3


def test_a_deleted_image_is_gone_and_deleting_it_again_is_no_error(bench: Bench) -> None:
    import_id = an_id()
    job_id = bench.service.create_image(a_request(), import_id=import_id)
    for _ in range(4):
        bench.service.read_job(job_id)
    [image] = bench.service.images_tagged(import_id)

    for _ in range(2):
        bench.service.delete_image(ImageId(image.id))

    assert bench.service.read_image(ImageId(image.id)) is None
    assert bench.service.images_tagged(import_id) == []
