"""Object storage through its S3 interface: a page of a bucket, and one object.

Sources: OBS "S3 API Reference" (GET Bucket, HEAD Object). Version 1 of the list, which goes on
behind a key, is the one that its reference has.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, Final

from ims_config.settings import PREFIX, WorkerSettings
from ims_worker.bucket_rules import StoredObject

MOST_IN_A_PAGE: Final = 1000
_NOT_THERE: Final = 404


class StorageProblem(Exception):
    """The storage did not answer, or said no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some objects of a bucket, in the order of their keys."""

    objects: tuple[StoredObject, ...]
    more: bool
    now: datetime
    """By the clock of the storage."""


class ObjectStorage:
    """Every method may raise StorageProblem."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    @cached_property
    def _s3(self) -> Any:
        # Half a second that only workers with watch rules should wait.
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        settings = self._settings
        if settings.obs_access_key is None or settings.obs_secret_key is None:
            raise StorageProblem(f"{PREFIX}OBS_ACCESS_KEY and {PREFIX}OBS_SECRET_KEY are not set")
        return boto3.session.Session().client(
            "s3",
            endpoint_url=settings.obs_endpoint,
            aws_access_key_id=settings.obs_access_key.get_secret_value(),
            aws_secret_access_key=settings.obs_secret_key.get_secret_value(),
            # Only a part of the signature, which OBS does not look at.
            region_name="eu-de",
            config=Config(
                connect_timeout=5,
                read_timeout=30,
                retries={"max_attempts": 3, "mode": "standard"},
                s3={"addressing_style": settings.obs_addressing},
            ),
        )

    def page(self, bucket: str, prefix: str, *, after: str, limit: int = MOST_IN_A_PAGE) -> Page:
        """The objects with this prefix behind a key."""
        told = self._call("list_objects", Bucket=bucket, Prefix=prefix, Marker=after, MaxKeys=limit)
        objects = tuple(
            _stored(each["Key"], each["Size"], each) for each in told.get("Contents", ())
        )
        return Page(objects=objects, more=bool(told.get("IsTruncated") and objects), now=_now(told))

    def find(self, bucket: str, key: str) -> tuple[StoredObject | None, datetime]:
        """The object, if it is there, and the time by the storage's clock."""
        told = self._call("head_object", Bucket=bucket, Key=key)
        if "ETag" not in told:
            return None, datetime.now(UTC)
        return _stored(key, told["ContentLength"], told), _now(told)

    def _call(self, name: str, **wanted: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  # as above

        try:
            told: dict[str, Any] = getattr(self._s3, name)(**wanted)
        except ClientError as exc:
            error = exc.response.get("Error", {})
            status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if name == "head_object" and status == _NOT_THERE:
                return {}
            code, message = error.get("Code", status), error.get("Message", "no reason was given")
            raise StorageProblem(f"bucket {wanted['Bucket']}: {code}: {message}") from exc
        except (BotoCoreError, ValueError) as exc:
            raise StorageProblem(f"bucket {wanted['Bucket']}: {exc}") from exc
        return told


def _stored(key: str, size: int, told: dict[str, Any]) -> StoredObject:
    return StoredObject(
        key=key, etag=str(told["ETag"]).strip('"'), size=int(size), modified=told["LastModified"]
    )


def _now(told: dict[str, Any]) -> datetime:
    said = told.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(said) if said else datetime.now(UTC)
