"""Parsers of the responses of IAM, IMS, the API gateway and proxies.

They take any bytes and raise only Unreadable, which the caller translates into a CloudProblem.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Final

from ims_config.records import ErrorClass, Failure, ImageFacts
from ims_worker.adapters.otc.error_catalog import advice_for
from ims_worker.ports import CloudJob, ImageId, JobId, JobStatus, Quota

LONGEST_MESSAGE: Final = 500
LONGEST_ID: Final = 128
# A longer Retry-After is not plausible.
LONGEST_RETRY_AFTER: Final = timedelta(hours=1)
FULL: Final = 100.0

_CODE_KEYS: Final = ("error_code", "errorCode", "code", "addition_error_code")
_MESSAGE_KEYS: Final = (
    "error_msg", "errorMsg", "message", "fail_reason", "error", "addition_error_msg", "title",
)  # fmt: skip
_REQUEST_ID_KEYS: Final = ("request_id", "requestId")
_REQUEST_ID_HEADERS: Final = ("x-request-id", "x-openstack-request-id")
_CODE: Final = re.compile(r"[A-Za-z][\w.\-]{1,63}", re.ASCII)
_NUMBERED: Final = re.compile(r"(?i:img|iam|apigw?)\.\d+", re.ASCII)
_IMS_CODE: Final = re.compile(r"(?i)\bIMG\.\d{4}\b", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
# Tokens are CMS (`MII…`) or Fernet (`gAAAA…`); no ordinary word has 100 characters.
_TOKEN: Final = re.compile(r"(?:MII|gAAAA)[\w+/=\-]{16,}|[\w+/=\-]{100,}", re.ASCII)
_NAMED_SECRET: Final = re.compile(
    r"(?i)((?:x-(?:auth|subject)-token|password|passwd|secret)[\"']?\s*[:=]\s*)[^\s,;}]+"
)
_XML: Final = {
    "code": re.compile(r"<Code>\s*([^<]{1,64}?)\s*</Code>"),
    "message": re.compile(r"<Message>\s*([^<]{0,2000}?)\s*</Message>"),
    "request_id": re.compile(r"<RequestId>\s*([^<]{1,128}?)\s*</RequestId>"),
}


JsonObject = Mapping[str, object]


class Unreadable(ValueError):
    """A response without the expected content; the message says what is missing."""


# --- text -----------------------------------------------------------------------------------


def clean(text: object, *, longest: int = LONGEST_MESSAGE) -> str:
    """One printable line of limited length, without tokens, that every database accepts."""
    # Cut before the regular expressions run, because a body may have megabytes.
    line = str(text)[: longest * 8].encode("utf-8", "replace").decode("utf-8")
    line = " ".join(_CONTROL.sub(" ", line).split())
    line = _NAMED_SECRET.sub(r"\1***", _TOKEN.sub("***", line))
    return line if len(line) <= longest else line[: longest - 1] + "…"


def parse_json(body: bytes) -> object:
    """The JSON value of a body."""
    try:
        value: object = json.loads(body)
    # A few kilobytes of '[' exceed the recursion limit.
    except (ValueError, RecursionError) as exc:
        raise Unreadable(f"no JSON: {_excerpt(body)}") from exc
    return value


def _excerpt(body: bytes) -> str:
    return repr(clean(_text(body), longest=120))


def _text(body: bytes) -> str:
    """The visible text of a body, also of HTML."""
    shown = body[: LONGEST_MESSAGE * 20].decode("utf-8", "replace")
    if "<" in shown:
        shown = re.sub(r"(?is)<(script|style)\b[^>]*>[^<]*", " ", shown)
        shown = unescape(re.sub(r"<[^<>]*>", " ", shown))
    return shown


# --- errors ---------------------------------------------------------------------------------


def parse_failure(status: int, body: bytes, headers: Mapping[str, str]) -> Failure:
    """The error in a response of 3xx, 4xx or 5xx from IMS, IAM, the gateway or a proxy."""
    parts = _json_parts(body) or _xml_parts(body)
    code = _first_code(parts) or f"HTTP.{status}"
    message = _first_text(parts, _MESSAGE_KEYS) or clean(_text(body)) or f"HTTP {status}, no text"
    advice = advice_for(code, status)
    return Failure(
        code=code,
        message=message,
        error_class=advice.error_class,
        hint=advice.hint,
        http_status=status,
        request_id=_first_text(parts, _REQUEST_ID_KEYS) or request_id_of(headers),
    )


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The cloud's id of this call, for its support."""
    lower = {str(name).lower(): value for name, value in headers.items()}
    values = [lower[name] for name in _REQUEST_ID_HEADERS if name in lower]
    return clean(values[0], longest=LONGEST_ID) or None if values else None


def parse_retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """The pause of a Retry-After header in seconds or as an HTTP date; None if it has neither."""
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


def _json_parts(body: bytes) -> list[JsonObject]:
    """The objects that may contain the error: `error`, the top, and those nested one level."""
    try:
        top = parse_json(body)
    except Unreadable:
        return []
    if not isinstance(top, Mapping):
        return []
    nested = [value for value in top.values() if isinstance(value, Mapping)]
    error = top.get("error")
    first = [error] if isinstance(error, Mapping) else []
    return [*first, top, *nested]


def _xml_parts(body: bytes) -> list[JsonObject]:
    text = body[:8192].decode("utf-8", "replace")
    part = {name: match[1] for name, rule in _XML.items() if (match := rule.search(text))}
    return [part] if "code" in part else []


def _first_code(parts: Iterable[JsonObject]) -> str | None:
    """IAM sends the HTTP status as `code`; a bare number is not an error code."""
    for part in parts:
        for key in _CODE_KEYS:
            value = part.get(key)
            if isinstance(value, str) and _CODE.fullmatch(value.strip()):
                code = value.strip()
                if _TOKEN.search(code):
                    continue
                return code.upper() if _NUMBERED.fullmatch(code) else code
    return None


def _first_text(parts: Iterable[JsonObject], keys: Sequence[str]) -> str | None:
    longest = LONGEST_ID if keys is _REQUEST_ID_KEYS else LONGEST_MESSAGE
    for part in parts:
        for key in keys:
            value = part.get(key)
            if isinstance(value, str) and (text := clean(value, longest=longest)):
                return text
    return None


# --- jobs -----------------------------------------------------------------------------------


def parse_job_id(body: bytes) -> JobId:
    """The job id in the response to a create; one documented sample has a leading space."""
    match parse_json(body):
        case {"job_id": str(text)} if job_id := clean(text, longest=LONGEST_ID):
            return JobId(job_id)
        case other:
            raise Unreadable(f"no job_id in {clean(json.dumps(other), longest=120)!r}")


def parse_job(body: bytes, *, asked: JobId) -> CloudJob:
    """The job in a response of `GET …/jobs/{id}` or `GET …/job/{id}`, which look alike."""
    job = parse_json(body)
    if not isinstance(job, Mapping) or not isinstance(job.get("status"), str):
        raise Unreadable(f"no job status in {_excerpt(body)}")
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


def _entities(job: JsonObject) -> JsonObject:
    entities = job.get("entities")
    return entities if isinstance(entities, Mapping) else {}


def _sub_jobs(job: JsonObject) -> list[JsonObject]:
    """The jobs of an OVA's disks, the one of the system disk first."""
    subs = [
        sub for sub in _listed(_entities(job).get("sub_jobs_result")) if isinstance(sub, Mapping)
    ]
    return sorted(subs, key=lambda sub: "DataImage" in str(sub.get("job_type")))


def _image_ids(job: JsonObject) -> Iterator[ImageId]:
    entities = _entities(job)
    parts = [entities, *_listed(entities.get("results")), *map(_entities, _sub_jobs(job))]
    for part in parts:
        if isinstance(part, Mapping) and (image_id := _word(part.get("image_id"))):
            yield ImageId(image_id)


def _job_failure(job: JsonObject) -> Failure:
    """Why a job failed: stated at the top, in its entities, or by one of its sub-jobs."""
    failed_subs = [
        sub for sub in _sub_jobs(job) if _job_status(str(sub.get("status"))) is JobStatus.FAIL
    ]
    parts = [part for each in (job, *failed_subs) for part in (each, _entities(each))]
    code = _first_code(parts) or _unprefixed_code(parts) or "FAIL"
    advice = advice_for(code, None)
    message = _first_text(parts, _MESSAGE_KEYS)
    error_class = advice.error_class
    if error_class in (ErrorClass.AUTH, ErrorClass.LOOK_FIRST):
        # These classes are about a call; this job has ended.
        error_class = ErrorClass.PERMANENT
    return Failure(
        code=code,
        message=message or "IMS reports that the job failed and gives no reason",
        error_class=error_class,
        hint=advice.hint,
    )


def _unprefixed_code(parts: Sequence[JsonObject]) -> str | None:
    """IMS's code where a job states only its number, or states it in the text of its failure."""
    for number in (part.get(key) for part in parts for key in _CODE_KEYS):
        if re.fullmatch(r"[1-9]\d{0,3}|0\d{3}", str(number), re.ASCII):
            return f"IMG.{int(str(number)):04}"
    stated = _IMS_CODE.search(_first_text(parts, _MESSAGE_KEYS) or "")
    return stated[0].upper() if stated else None


def _percent(value: object) -> float | None:
    """0 to 100, from IMS's 0 to 1."""
    number = _number(value)
    if number is None or number < 0:
        return None
    return min(round(number * FULL if number <= 1 else number, 2), FULL)


# --- images and quota -----------------------------------------------------------------------


def parse_image(body: bytes) -> ImageFacts:
    """One image, which is a flat object."""
    return _image(parse_json(body))


def parse_images(body: bytes) -> list[ImageFacts]:
    """A page of images. One unreadable entry makes the page unreadable, because it may be the
    image that is searched for."""
    match parse_json(body):
        case {"images": list(images)}:
            return [_image(image) for image in images]
        case _:
            raise Unreadable(f"no list of images in {_excerpt(body)}")


def parse_quota(body: bytes) -> Quota:
    """Private images used and allowed."""
    match parse_json(body):
        case {"quotas": {"resources": list(resources)}}:
            for resource in resources:
                match resource:
                    case {"type": "image", "used": used, "quota": limit}:
                        used, limit = _whole(used), _whole(limit)
                        if used is not None and limit is not None:
                            return Quota(used=used, limit=limit)
    raise Unreadable(f"no image quota in {_excerpt(body)}")


def _image(image: object) -> ImageFacts:
    if not isinstance(image, Mapping) or (image_id := _word(image.get("id"))) is None:
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


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _word(value: object, *, longest: int = 256) -> str | None:
    """A non-empty string, printable, stripped and of limited length."""
    if not isinstance(value, str):
        return None
    text = _CONTROL.sub("", value[:longest]).encode("utf-8", "replace").decode("utf-8").strip()
    return text or None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: object) -> int | None:
    number = _number(value)
    # A 64-bit database column must be able to store it.
    return int(number) if number is not None and 0 <= number < 2**53 else None
