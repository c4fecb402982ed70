"""Object storage (OBS) through its S3 interface: lists a bucket by pages and finds one object.

Source: OBS "S3 API Reference" (GET Bucket, HEAD Object), which has version 1 of the list only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Final, Protocol, TypedDict

from ims_config.settings import PREFIX, WorkerSettings
from ims_worker.bucket_rules import StoredObject

MAX_PAGE: Final = 1000
_NOT_FOUND: Final = 404


class StorageProblem(Exception):
    """The storage did not respond, or refused."""


class _NotFound(StorageProblem):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some objects of a bucket, in the order of their keys."""

    objects: tuple[StoredObject, ...]
    more: bool
    now: datetime
    """According to the clock of the storage."""


class _Metadata(TypedDict):
    HTTPHeaders: dict[str, str]


class _Entry(TypedDict):
    Key: str
    ETag: str
    Size: int
    LastModified: datetime


class _Listing(TypedDict, total=False):
    Contents: list[_Entry]
    IsTruncated: bool
    ResponseMetadata: _Metadata


class _Head(TypedDict):
    ETag: str
    ContentLength: int
    LastModified: datetime
    ResponseMetadata: _Metadata


class _S3(Protocol):
    """The part of boto3's client that is used here; boto3 has no types."""

    def list_objects(self, *, Bucket: str, Prefix: str, Marker: str, MaxKeys: int) -> _Listing: ...  # noqa: N803  # boto3's

    def head_object(self, *, Bucket: str, Key: str) -> _Head: ...  # noqa: N803  # as above


class ObjectStorage:
    """Every method may raise StorageProblem."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    @cached_property
    def _s3(self) -> _S3:
        # Imported here because it takes 0.5 s, which only workers with bucket rules should wait.
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        settings = self._settings
        if settings.obs_access_key is None or settings.obs_secret_key is None:
            raise StorageProblem(f"{PREFIX}OBS_ACCESS_KEY and {PREFIX}OBS_SECRET_KEY are not set")
        client: _S3 = boto3.session.Session().client(
            "s3",
            endpoint_url=settings.obs_endpoint,
            aws_access_key_id=settings.obs_access_key.get_secret_value(),
            aws_secret_access_key=settings.obs_secret_key.get_secret_value(),
            # Only a part of the signature; OBS ignores it.
            region_name="eu-de",
            config=Config(
                connect_timeout=5,
                read_timeout=30,
                retries={"max_attempts": 3, "mode": "standard"},
                s3={"addressing_style": settings.obs_addressing},
            ),
        )
        return client

    def page(self, bucket: str, prefix: str, *, after: str, limit: int = MAX_PAGE) -> Page:
        """The objects with this prefix whose keys follow `after`."""
        with _storage_problems(bucket):
            listing = self._s3.list_objects(
                Bucket=bucket, Prefix=prefix, Marker=after, MaxKeys=limit
            )
        objects = tuple(
            _stored(entry["Key"], entry["Size"], entry) for entry in listing.get("Contents", ())
        )
        more = bool(listing.get("IsTruncated") and objects)
        return Page(objects=objects, more=more, now=_now(listing))

    def find(self, bucket: str, key: str) -> tuple[StoredObject | None, datetime]:
        """The object, if it exists, and the time according to the clock of the storage."""
        try:
            with _storage_problems(bucket):
                head = self._s3.head_object(Bucket=bucket, Key=key)
        except _NotFound:
            return None, datetime.now(UTC)
        return _stored(key, head["ContentLength"], head), _now(head)


@contextmanager
def _storage_problems(bucket: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  # as above

    try:
        yield
    except ClientError as exc:
        error = exc.response.get("Error", {})
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code, message = error.get("Code", status), error.get("Message", "no reason was given")
        kind = _NotFound if status == _NOT_FOUND else StorageProblem
        raise kind(f"bucket {bucket}: {code}: {message}") from exc
    except (BotoCoreError, ValueError) as exc:
        raise StorageProblem(f"bucket {bucket}: {exc}") from exc


def _stored(key: str, size: int, entry: _Entry | _Head) -> StoredObject:
    etag = str(entry["ETag"]).strip('"')
    return StoredObject(key=key, etag=etag, size=int(size), modified=entry["LastModified"])


def _now(response: _Listing | _Head) -> datetime:
    metadata = response.get("ResponseMetadata")
    date = metadata["HTTPHeaders"].get("date") if metadata else None
    return parsedate_to_datetime(date) if date else datetime.now(UTC)
