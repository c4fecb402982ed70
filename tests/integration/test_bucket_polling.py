"""Watching buckets: a real worker lists a real (moto's) bucket while people change it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import Running, until

from ims_config.names import WATCH_OBJECT
from ims_config.records import ImportRecord

REQUEST = {"min_disk": 40}
RULES = [
    {"name": "plain", "bucket": "images", "prefix": "plain/", "suffix": ".qcow2"},
    {"name": "marked", "bucket": "images", "prefix": "marked/", "suffix": ".qcow2",
     "marker": ".ready"},
    {"name": "stable", "bucket": "images", "prefix": "stable/", "stable_s": 3},
]  # fmt: skip
PART = 5 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class WatchedBucket:
    """A stack that watches its bucket, and shorthands for the tests."""

    running: Running
    s3: Any
    file: Path

    def put(self, key: str, content: bytes | None = None) -> None:
        """A good image file, or this content."""
        good = (self.running.stack.folder / "good.qcow2").read_bytes()
        self.s3.put_object(Bucket="images", Key=key, Body=good if content is None else content)

    def other_content(self, number: int) -> bytes:
        """A good image file that differs from all others."""
        return (self.running.stack.folder / "good.qcow2").read_bytes() + bytes([number])

    def imports(self, key: str) -> list[ImportRecord]:
        """Of the object with this key, the oldest first."""
        url = f"images:{key}"
        found = [one for one in self.running.client.list(limit=1000) if one.image_url == url]
        return list(reversed(found))

    def passes(self, prefix: str) -> None:
        """Wait until every object that was there has been looked at."""
        marks = (f"{prefix}zz-{len(self.running.client.list(limit=1000))}.qcow2",)
        for mark in marks * 2:
            self.put(mark, b"canary")
            until(lambda mark=mark: bool(self.imports(mark)), f"{mark} was found")
            self.s3.delete_object(Bucket="images", Key=mark)


@contextmanager
def watched(folder: Path, rules: list[dict[str, Any]], **options: Any) -> Iterator[WatchedBucket]:
    file = folder / "watch.yaml"
    file.write_text(
        yaml.safe_dump({"version": 1, "rules": [rule | {"request": REQUEST} for rule in rules]})
    )
    settings = {"WATCH_FILE": str(file), "WATCH_EVERY_S": "0.5"}
    with Running.start(settings=settings, **options) as running:
        yield WatchedBucket(running, running.stack.s3(), file)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedBucket]:
    with watched(tmp_path_factory.mktemp("rules"), RULES, api=True) as made:
        yield made


def test_what_lands_is_imported_once_and_when_it_changes_again(bucket: WatchedBucket) -> None:
    bucket.put("plain/ubuntu.qcow2")
    until(lambda: len(bucket.imports("plain/ubuntu.qcow2")) == 1, "it was imported")
    bucket.passes("plain/")
    [first] = bucket.imports("plain/ubuntu.qcow2")
    assert bucket.running.client.wait(first.id, timeout=30).state == "SUCCEEDED"
    assert first.name.startswith("ubuntu-")
    assert (first.requested_by, first.request["min_disk"]) == ("watch:plain", 40)

    bucket.put("plain/ubuntu.qcow2", bucket.other_content(1))
    until(lambda: len(bucket.imports("plain/ubuntu.qcow2")) == 2, "the change was imported")
    bucket.put("plain/ubuntu.qcow2")
    bucket.passes("plain/")
    assert len(bucket.imports("plain/ubuntu.qcow2")) == 2


def test_what_is_written_again_as_it_was_is_the_same(bucket: WatchedBucket) -> None:
    for _ in range(3):
        bucket.put("plain/same.qcow2")
        bucket.passes("plain/")

    assert len(bucket.imports("plain/same.qcow2")) == 1


def test_what_is_gone_is_left_alone_and_what_comes_back_is_known(bucket: WatchedBucket) -> None:
    bucket.put("plain/gone.qcow2")
    until(lambda: bool(bucket.imports("plain/gone.qcow2")), "it was imported")
    bucket.s3.delete_object(Bucket="images", Key="plain/gone.qcow2")
    bucket.passes("plain/")
    bucket.put("plain/gone.qcow2")
    bucket.passes("plain/")

    assert len(bucket.imports("plain/gone.qcow2")) == 1


def test_an_upload_in_parts_is_imported_when_it_is_complete(bucket: WatchedBucket) -> None:
    key = {"Bucket": "images", "Key": "plain/parts.qcow2"}
    upload = bucket.s3.create_multipart_upload(**key)["UploadId"]
    parts = []
    for number, body in ((1, b"x" * PART), (2, b"end")):
        part = bucket.s3.upload_part(**key, UploadId=upload, PartNumber=number, Body=body)
        parts.append({"ETag": part["ETag"], "PartNumber": number})
        bucket.passes("plain/")
        assert bucket.imports("plain/parts.qcow2") == []

    bucket.s3.complete_multipart_upload(**key, UploadId=upload, MultipartUpload={"Parts": parts})

    until(lambda: bool(bucket.imports("plain/parts.qcow2")), "it was imported")
    bucket.passes("plain/")
    assert len(bucket.imports("plain/parts.qcow2")) == 1


def test_an_object_waits_for_its_marker(bucket: WatchedBucket) -> None:
    bucket.put("marked/ubuntu.qcow2")
    bucket.passes("plain/")
    assert bucket.imports("marked/ubuntu.qcow2") == []

    bucket.put("marked/ubuntu.qcow2.ready", b"")

    until(lambda: len(bucket.imports("marked/ubuntu.qcow2")) == 1, "it was imported")


def test_an_object_waits_until_it_has_not_changed(bucket: WatchedBucket) -> None:
    for number in range(4):
        bucket.put("stable/appended", bucket.other_content(number))
        bucket.passes("plain/")
        assert bucket.imports("stable/appended") == []

    until(lambda: bool(bucket.imports("stable/appended")), "it was stable")
    assert len(bucket.imports("stable/appended")) == 1


def test_nothing_is_imported_again_by_a_new_worker_or_after_forgetting(
    bucket: WatchedBucket,
) -> None:
    bucket.put("plain/old.qcow2")
    until(lambda: bool(bucket.imports("plain/old.qcow2")), "it was imported")
    [old] = bucket.imports("plain/old.qcow2")
    bucket.running.client.wait(old.id, timeout=30)
    until(lambda: bucket.running.ledger.imports.is_reported(old.id), "its end was reported")
    bucket.running.replace_worker()
    bucket.running.client.prune(older_than=timedelta(0))
    bucket.running.redis.flushall()

    bucket.passes("plain/")

    assert bucket.imports("plain/old.qcow2") == []


def test_who_is_told_of_an_object_looks_at_once(tmp_path: Path) -> None:
    rule = {"name": "marked", "bucket": "images", "prefix": "marked/", "marker": ".ready"}
    with watched(tmp_path, [rule]) as bucket:
        bucket.put("marked/ubuntu.qcow2")
        bucket.put("marked/ubuntu.qcow2.ready", b"")
        until(lambda: bool(bucket.imports("marked/ubuntu.qcow2")), "it was imported")
        bucket.file.write_text(bucket.file.read_text().replace("name: marked", "name: renamed"))

        for key in (
            "marked/ubuntu.qcow2.ready",
            "marked/nothing",
            "elsewhere",
            "marked/ubuntu.qcow2",
        ):
            bucket.running.stack.app.send_task(WATCH_OBJECT, ["images", key])

        until(lambda: len(bucket.imports("marked/ubuntu.qcow2")) == 2, "it was looked at")


def test_doctor_says_how_the_rules_stand(bucket: WatchedBucket) -> None:
    kept = bucket.file.read_text()
    good = bucket.running.stack.run("doctor").stdout
    try:
        bucket.file.write_text(kept.replace("bucket: images", "bucket: no-such", 1))
        away = bucket.running.stack.run("doctor").stdout
        bucket.file.write_text("version: 1\nrules: [{name: a}]\n")
        wrong = bucket.running.stack.run("doctor").stdout
    finally:
        bucket.file.write_text(kept)

    assert "images:plain/*.qcow2 can be listed" in good
    assert "NoSuchBucket" in away
    assert "rules.0.bucket: is mandatory" in wrong


def test_objects_that_are_overwritten_and_deleted_while_listed_are_imported_once_each(
    tmp_path: Path,
) -> None:
    rule = {"name": "busy", "bucket": "images", "prefix": "busy/"}
    with watched(tmp_path, [rule], workers=2) as bucket:
        last: dict[str, bytes] = {}
        for number in range(120):
            key = f"busy/{number % 40}"
            if number % 7 == 6:
                bucket.s3.delete_object(Bucket="images", Key=key)
                last.pop(key, None)
            else:
                last[key] = b"content %d" % number
                bucket.put(key, last[key])
        until(lambda: all(bucket.imports(key) for key in last), "all were found")
        bucket.passes("busy/")

        for key in last:
            found = bucket.imports(key)
            etag = bucket.s3.head_object(Bucket="images", Key=key)["ETag"].strip('"')
            assert len({one.key for one in found}) == len(found)
            assert len(found) <= 3
            assert found[-1].name.endswith(etag[:8])
