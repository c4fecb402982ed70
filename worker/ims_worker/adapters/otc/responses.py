"""Parsers of everything IAM, IMS and what stands between answer: past here, only our own words.

They take any bytes and raise nothing but Unreadable, which callers turn into the right problem.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any, Final

from ims_config.records import ErrorClass, Failure, ImageFacts
from ims_worker.adapters.otc.error_catalog import advice_for
from ims_worker.ports import CloudJob, ImageId, JobId, JobStatus, Quota

LONGEST_MESSAGE: Final = 500
LONGEST_ID: Final = 128
# Nobody waits a year because a header says so.
LONGEST_RETRY_AFTER: Final = timedelta(hours=1)
FULL: Final = 100.0

_CODE_KEYS: Final = ("error_code", "errorCode", "code", "addition_error_code")
_MESSAGE_KEYS: Final = (
    "error_msg", "errorMsg", "message", "fail_reason", "error", "addition_error_msg", "title",
)  # fmt: skip
_REQUEST_ID_KEYS: Final = ("request_id", "requestId")
_REQUEST_ID_HEADERS: Final = ("x-request-id", "x-openstack-request-id")
_CODE: Final = re.compile(r"[A-Za-z][\w.\-]{1,63}", re.ASCII)
_NUMBERED: Final = re.compile(r"(?i:img|iam|apigw)\.\d+", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
# Tokens are CMS blobs (`MII…`) or Fernet (`gAAAA…`); no honest word is 100 characters long.
_TOKEN: Final = re.compile(r"(?:MII|gAAAA)[\w+/=\-]{16,}|[\w+/=\-]{100,}", re.ASCII)
_NAMED_SECRET: Final = re.compile(
    r"(?i)((?:x-(?:auth|subject)-token|password|passwd|secret)[\"']?\s*[:=]\s*)[^\s,;}]+"
)
_XML: Final = {
    "code": re.compile(r"<Code>\s*([^<]{1,64}?)\s*</Code>"),
    "message": re.compile(r"<Message>\s*([^<]{0,2000}?)\s*</Message>"),
    "request_id": re.compile(r"<RequestId>\s*([^<]{1,128}?)\s*</RequestId>"),
}


class Unreadable(ValueError):
    """An answer that is not what was asked for; says why, in words for a log."""


# --- text -----------------------------------------------------------------------------------


def clean(text: Any, *, longest: int = LONGEST_MESSAGE) -> str:
    """One printable line of sane length that holds no token and that any database takes."""
    # Cut before the expressions run: a body may be megabytes.
    line = str(text)[: longest * 8].encode("utf-8", "replace").decode("utf-8")
    line = " ".join(_CONTROL.sub(" ", line).split())
    line = _NAMED_SECRET.sub(r"\1***", _TOKEN.sub("***", line))
    return line if len(line) <= longest else line[: longest - 1] + "…"


def parse_json(body: bytes) -> Any:
    """The JSON of a body."""
    try:
        return json.loads(body)
    # A few kilobytes of '[' are enough for the recursion limit.
    except (ValueError, RecursionError) as exc:
        raise Unreadable(f"no JSON: {clean(_text(body), longest=120)!r}") from exc


def _text(body: bytes) -> str:
    """What a person would see of a body, HTML included."""
    shown = body[: LONGEST_MESSAGE * 20].decode("utf-8", "replace")
    if "<" in shown:
        shown = re.sub(r"(?is)<(script|style)\b[^>]*>[^<]*", " ", shown)
        shown = unescape(re.sub(r"<[^<>]*>", " ", shown))
    return shown


# --- errors ---------------------------------------------------------------------------------


def parse_failure(status: int, body: bytes, headers: Mapping[str, str]) -> Failure:
    """What an answer of 3xx, 4xx or 5xx says, whoever wrote it: IMS, IAM, gateway or a proxy."""
    said = _said_in_json(body) or _said_in_xml(body)
    code = _first_code(said) or f"HTTP.{status}"
    message = _first_text(said, _MESSAGE_KEYS) or clean(_text(body)) or f"HTTP {status}, no text"
    advice = advice_for(code, status)
    return Failure(
        code=code,
        message=message,
        error_class=advice.error_class,
        hint=advice.hint,
        http_status=status,
        request_id=_first_text(said, _REQUEST_ID_KEYS) or request_id_of(headers),
    )


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The cloud's own name of this call, for its support."""
    lower = {str(name).lower(): value for name, value in headers.items()}
    found = [
        clean(lower[name], longest=LONGEST_ID) for name in _REQUEST_ID_HEADERS if name in lower
    ]
    return found[0] if found and found[0] else None


def parse_retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """Seconds or an HTTP date; None where it says nothing usable."""
    text = (value or "").strip()
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        pause = timedelta(seconds=int(text))
    else:
        try:
            until = parsedate_to_datetime(text)
            pause = (until if until.tzinfo else until.replace(tzinfo=UTC)) - now
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    return min(max(pause, timedelta(0)), LONGEST_RETRY_AFTER)


def _said_in_json(body: bytes) -> list[Mapping[str, Any]]:
    """The objects an error may be in: `error`, the top, and whatever is nested one level."""
    try:
        top = parse_json(body)
    except Unreadable:
        return []
    if not isinstance(top, Mapping):
        return []
    inner = [value for value in top.values() if isinstance(value, Mapping)]
    error = top.get("error")
    first = [error] if isinstance(error, Mapping) else []
    return [*first, top, *inner]


def _said_in_xml(body: bytes) -> list[Mapping[str, Any]]:
    shown = body[:8192].decode("utf-8", "replace")
    found = {name: match[1] for name, rule in _XML.items() if (match := rule.search(shown))}
    return [found] if "code" in found else []


def _first_code(said: Iterable[Mapping[str, Any]]) -> str | None:
    """IAM sends the HTTP status as `code`; a bare number is not an error code."""
    for part in said:
        for key in _CODE_KEYS:
            value = part.get(key)
            if isinstance(value, str) and _CODE.fullmatch(value.strip()):
                code = value.strip()
                if _TOKEN.search(code):
                    continue
                return code.upper() if _NUMBERED.fullmatch(code) else code
    return None


def _first_text(said: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> str | None:
    longest = LONGEST_ID if keys is _REQUEST_ID_KEYS else LONGEST_MESSAGE
    for part in said:
        for key in keys:
            value = part.get(key)
            if isinstance(value, str) and (text := clean(value, longest=longest)):
                return text
    return None


# --- jobs -----------------------------------------------------------------------------------


def parse_job_id(body: bytes) -> JobId:
    """The job a create was answered with; one documented sample has a space in front."""
    match parse_json(body):
        case {"job_id": str(text)} if job_id := clean(text, longest=LONGEST_ID):
            return JobId(job_id)
        case other:
            raise Unreadable(f"no job_id in {clean(json.dumps(other), longest=120)!r}")


def parse_job(body: bytes, *, asked: JobId) -> CloudJob:
    """One reading of a job, by `GET …/jobs/{id}` or `GET …/job/{id}`: both look alike."""
    job = parse_json(body)
    if not isinstance(job, Mapping) or not isinstance(job.get("status"), str):
        raise Unreadable(f"no job status in {clean(_text(body), longest=120)!r}")
    status = _job_status(job["status"])
    return CloudJob(
        id=JobId(_word(job.get("job_id")) or asked),
        status=status,
        image_ids=tuple(dict.fromkeys(_image_ids(job))),
        percent=_percent(_entities(job).get("process_percent")),
        failure=_job_failure(job) if status is JobStatus.FAIL else None,
    )


def _job_status(word: str) -> JobStatus:
    try:
        return JobStatus(word.strip().upper())
    except ValueError:
        return JobStatus.UNKNOWN


def _entities(job: Mapping[str, Any]) -> Mapping[str, Any]:
    entities = job.get("entities")
    return entities if isinstance(entities, Mapping) else {}


def _sub_jobs(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The jobs of an OVA's disks, the one of the system disk first."""
    subs = [
        sub for sub in _listed(_entities(job).get("sub_jobs_result")) if isinstance(sub, Mapping)
    ]
    return sorted(subs, key=lambda sub: "DataImage" in str(sub.get("job_type")))


def _image_ids(job: Mapping[str, Any]) -> Iterator[ImageId]:
    entities = _entities(job)
    parts = [entities, *_listed(entities.get("results")), *map(_entities, _sub_jobs(job))]
    for part in parts:
        if isinstance(part, Mapping) and (image_id := _word(part.get("image_id"))):
            yield ImageId(image_id)


def _job_failure(job: Mapping[str, Any]) -> Failure:
    """Why a job failed: said at its top, inside its entities, or by one of its sub-jobs."""
    failed_subs = [
        sub for sub in _sub_jobs(job) if _job_status(str(sub.get("status"))) is JobStatus.FAIL
    ]
    said = [part for each in (job, *failed_subs) for part in (each, _entities(each))]
    code = _first_code(said) or "FAIL"
    advice = advice_for(code, None)
    message = _first_text(said, _MESSAGE_KEYS)
    error_class = advice.error_class
    if error_class in (ErrorClass.AUTH, ErrorClass.LOOK_FIRST):
        # Advice about a call; a job that failed has failed.
        error_class = ErrorClass.PERMANENT
    return Failure(
        code=code,
        message=message or "IMS reports that the job failed and gives no reason",
        error_class=error_class,
        hint=advice.hint,
    )


def _percent(value: Any) -> float | None:
    """0 to 100 of IMS's 0 to 1."""
    number = _number(value)
    if number is None or number < 0:
        return None
    return min(round(number * FULL if number <= 1 else number, 2), FULL)


# --- images and quota -----------------------------------------------------------------------


def parse_image(body: bytes) -> ImageFacts:
    """One image: a flat object."""
    return _image(parse_json(body))


def parse_images(body: bytes) -> list[ImageFacts]:
    """A page of images. One entry that cannot be read makes the page unreadable: it may be the
    very image that is looked for."""
    match parse_json(body):
        case {"images": list(images)}:
            return [_image(image) for image in images]
        case _:
            raise Unreadable(f"no list of images in {clean(_text(body), longest=120)!r}")


def parse_quota(body: bytes) -> Quota:
    """Private images used and allowed."""
    match parse_json(body):
        case {"quotas": {"resources": list(resources)}}:
            for resource in resources:
                match resource:
                    case {"type": "image", "used": used, "quota": limit}:
                        known = _whole(used), _whole(limit)
                        if known[0] is not None and known[1] is not None:
                            return Quota(used=known[0], limit=known[1])
    raise Unreadable(f"no image quota in {clean(_text(body), longest=120)!r}")


def _image(image: Any) -> ImageFacts:
    image_id = _word(image.get("id")) if isinstance(image, Mapping) else None
    if image_id is None:
        raise Unreadable("an image without an id")
    return ImageFacts(
        id=image_id,
        name=_word(image.get("name")),
        status=_word(image.get("status")),
        min_disk=_whole(image.get("min_disk")),
        os_type=_word(image.get("__os_type")),
        os_version=_word(image.get("__os_version")),
        disk_format=_word(image.get("disk_format")),
        size_bytes=_whole(image.get("__image_size")) or _whole(image.get("size")) or None,
        created_at=_word(image.get("created_at")),
        data_origin=_word(image.get("__data_origin"), longest=2048),
        tags=tuple(tag for each in _listed(image.get("tags")) if (tag := _word(each))),
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _word(value: Any, *, longest: int = 256) -> str | None:
    """A non-empty string as it came, but printable, stripped and of sane length."""
    if not isinstance(value, str):
        return None
    text = _CONTROL.sub("", value[:longest]).encode("utf-8", "replace").decode("utf-8").strip()
    return text or None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    # What no database column of 64 bits takes is no size of a disk either.
    return int(number) if number is not None and 0 <= number < 2**53 else None
